package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"lifeboat.dev/lifeboat/internal/capture"
	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/vault"
	"lifeboat.dev/lifeboat/internal/vault/repo"
)

// ProtectOptions are what a caller may set.
type ProtectOptions struct {
	Interval time.Duration // the least time between two checkpoints; default 5 s
	Once     bool          // end when the newest state is kept and no backup is overdue
	Event    func(ProtectEvent)
}

// ProtectEvent is something that the protection of an application has to tell.
type ProtectEvent struct {
	Time        time.Time         `json:"time"`
	Application string            `json:"application"`
	Type        ProtectEventType  `json:"type"`
	Text        string            `json:"text,omitempty"`
	Point       *dr.RecoveryPoint `json:"recoveryPoint,omitempty"`
	Changed     int               `json:"changed,omitempty"`     // documents that differ from the point before
	LastChange  *time.Time        `json:"lastChange,omitempty"`  // when the last of them came in
	StoredBytes int64             `json:"storedBytes,omitempty"` // that the point added to the vault
}

// ProtectEventType sorts events.
type ProtectEventType string

// The types.
const (
	EventFollowing ProtectEventType = "following" // it watches the application at a site
	EventWaiting   ProtectEventType = "waiting"   // for what Text says
	EventPoint     ProtectEventType = "point"     // a recovery point was sealed
	EventBackup    ProtectEventType = "backup"    // a scheduled backup of data began, ended or failed
	EventLog       ProtectEventType = "log"       // the log of a datastore began to be kept
)

const (
	// retryAfter is how long is waited before a site or a vault that did not answer is asked again.
	retryAfter = 2 * time.Second
	// backupRetry is how long after a failed backup the next try is.
	backupRetry = time.Minute
)

// errMoved: the application has another owner than when the protection began.
var errMoved = errors.New("it has moved")

// Protect keeps recovery points of an application coming until ctx ends: of its cluster state whenever that
// changes, of its data by its schedule. Sites and vaults that do not answer are waited for. What can only be
// mended by a person is an error at the beginning, and waited for later.
func (o *Operation) Protect(ctx context.Context, opts ProtectOptions) error {
	p := &protector{Operation: o, opts: opts}
	for {
		err := p.hold(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if opts.Once {
			return err
		}
		if class := dr.ClassOf(err); !p.hasWorked() && (class == dr.ClassUsage || class == dr.ClassDenied) {
			return err
		}
		if !errors.Is(err, errMoved) {
			p.waiting("%v", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryAfter):
		}
	}
}

// protector protects one application.
type protector struct {
	*Operation
	opts ProtectOptions

	mu     sync.Mutex
	worked bool            // it went on from a point, or sealed one
	at     string          // the site that it was last said to be followed at
	waits  string          // what was last said to be waited for
	data   []dr.DataPoint  // the newest copy of each datastore of this epoch
	logs   map[string]kept // how far the logs of datastores are kept
}

func (p *protector) tell(e ProtectEvent) {
	if e.Time, e.Application = time.Now().UTC(), p.app.Name; p.opts.Event != nil {
		p.opts.Event(e)
	}
}

// waiting says what is waited for, once.
func (p *protector) waiting(format string, a ...any) {
	p.mu.Lock()
	text := fmt.Sprintf(format, a...)
	said := text == p.waits
	p.waits = text
	p.mu.Unlock()
	if !said {
		p.tell(ProtectEvent{Type: EventWaiting, Text: text})
	}
}

// following says which site is watched, when that is news.
func (p *protector) following(site string) {
	p.mu.Lock()
	said := p.at == site
	p.at = site
	p.mu.Unlock()
	if !said {
		p.tell(ProtectEvent{Type: EventFollowing, Text: fmt.Sprintf("following %s at site %s", p.app.Name, site)})
	}
}

func (p *protector) hasWorked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.worked
}

// protectRecord names the lease of those who protect an application (docs/adr/0008).
func protectRecord(app string) string { return app + ".protect" }

// hold takes the lease that keeps two protectors of an application apart, and protects it under that.
func (p *protector) hold(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if p.opts.Once {
		// A lease whose holder died runs out; one that is renewed belongs to somebody who protects it.
		tooLong := time.AfterFunc(LeaseDuration+2*time.Second, func() { cancel(errors.New("it is protected by another process")) })
		defer tooLong.Stop()
		return p.leased(ctx, func() { tooLong.Stop() })
	}
	return p.leased(ctx, func() {})
}

func (p *protector) leased(ctx context.Context, got func()) (err error) {
	leased, lease, err := p.vault.AcquireLease(ctx, vault.LeaseRequest{Application: protectRecord(p.app.Name), Holder: p.token + "/protect", By: p.token,
		Duration: LeaseDuration, Wait: true, Progress: func(l vault.LeaseWait) { p.waiting("waiting for %s, which protects it now", l.By) }})
	if err != nil {
		return err
	}
	got()
	defer func() {
		if released := lease.Release(ctx); err == nil { // what ended the session says more
			err = released
		}
	}()
	return p.session(leased)
}

// session protects the application at the site that owns it now.
func (p *protector) session(ctx context.Context) error {
	own, err := p.owner(ctx)
	if err != nil {
		return err
	}
	client, err := p.connect(ctx, own.Site)
	if err != nil {
		return err
	}
	store, err := p.resume(ctx, own)
	if err != nil {
		return err
	}
	defer func() {
		if err := store.close(ctx); err != nil {
			p.say("%s: %v", p.app.Name, err)
		}
	}()
	p.following(own.Site)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if p.opts.Once {
		if err := p.makeUp(ctx); err != nil {
			return err
		}
	} else {
		var beside sync.WaitGroup
		beside.Go(func() { p.backups(ctx) })
		for _, ds := range p.app.Data {
			if ds.Postgres != nil {
				beside.Go(func() { p.keepLog(ctx, cancel, client, own, ds) })
			}
		}
		defer func() { cancel(nil); beside.Wait() }()
	}
	scope := capture.Scope{Application: p.app.Name, Namespaces: p.app.Namespaces}
	err = capture.Follow(ctx, client, scope, store, capture.FollowOptions{Interval: p.opts.Interval, Once: p.opts.Once, Say: p.waiting})
	if errors.Is(context.Cause(ctx), errMoved) {
		return context.Cause(ctx)
	}
	return err
}

// owner is who owns the application; the first to protect it makes its preferred site the owner.
func (p *protector) owner(ctx context.Context) (dr.Ownership, error) {
	own, token, err := p.vault.Ownership(ctx, p.app.Name)
	if err != nil && !errors.Is(err, dr.ErrNotFound) {
		return own, fmt.Errorf("read who owns %s: %w", p.app.Name, err)
	}
	if own.Site != "" {
		return own, nil
	}
	own = dr.Ownership{Application: p.app.Name, Site: p.app.Sites.Preferred, Epoch: 1, Changed: time.Now().UTC(), Lease: own.Lease}
	if _, err := p.vault.PutOwnership(ctx, own, token); err != nil {
		return own, fmt.Errorf("make %s the owner of %s: %w", own.Site, p.app.Name, err)
	}
	return own, nil
}

// stateStore is where a followed application's checkpoints become recovery points.
type stateStore struct {
	*documents
	p        *protector
	own      dr.Ownership
	snapshot string // the newest that the tree stands on
}

// resume goes on from the newest checkpoint of the application under this epoch, and finds the newest copies
// of its data.
func (p *protector) resume(ctx context.Context, own dr.Ownership) (*stateStore, error) {
	points, err := p.vault.Points(ctx, p.app.Name)
	if err != nil {
		return nil, fmt.Errorf("read the recovery points of %s: %w", p.app.Name, err)
	}
	points = slices.DeleteFunc(points, func(x dr.RecoveryPoint) bool { return x.Epoch != own.Epoch || x.Site != own.Site })
	p.takeData(points)
	s := &stateStore{p: p, own: own}
	tree := repo.NewDocumentTree()
	if len(points) > 0 {
		newest := slices.MaxFunc(points, func(a, b dr.RecoveryPoint) int { return a.Started.Compare(b.Started) })
		if tree, err = loadTree(ctx, p.vault.Repo(), newest.Checkpoint); err != nil {
			return nil, fmt.Errorf("read checkpoint %s: %w", newest.Checkpoint, err)
		}
		s.snapshot = newest.Checkpoint
		p.mu.Lock()
		p.worked = true
		p.mu.Unlock()
	}
	s.documents, err = newDocuments(ctx, p.vault.Repo(), tree)
	return s, err
}

// loadTree reads the documents of a checkpoint; of one that was pruned there are none.
func loadTree(ctx context.Context, r *repo.Repo, snapshot string) (*repo.DocumentTree, error) {
	snap, err := r.LoadSnapshot(ctx, snapshot)
	if errors.Is(err, repo.ErrNotFound) {
		return repo.NewDocumentTree(), nil
	}
	if err != nil {
		return nil, err
	}
	return repo.LoadDocumentTree(ctx, r, snap.Tree)
}

// takeData notes the newest copy of each datastore that some points have.
func (p *protector) takeData(points []dr.RecoveryPoint) {
	newest := map[string]dr.DataPoint{}
	for _, x := range points {
		for _, d := range x.Data {
			if is, ok := newest[d.Datastore]; !ok || copied(d).After(copied(is)) {
				newest[d.Datastore] = d
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.data, p.logs = nil, map[string]kept{}
	for _, ds := range p.app.Data {
		if d, ok := newest[ds.Name]; ok {
			p.data = append(p.data, d)
		}
	}
}

// Commit implements capture.Store: the checkpoint becomes a recovery point, with the newest data that there is.
func (s *stateStore) Commit(ctx context.Context, c capture.Checkpoint) error {
	p := s.p
	is, _, err := p.vault.Ownership(ctx, p.app.Name)
	if err != nil {
		return fmt.Errorf("read who owns %s: %w", p.app.Name, err)
	}
	if is.Site != s.own.Site || is.Epoch != s.own.Epoch {
		return fmt.Errorf("%s belongs to %s now: %w", p.app.Name, is.Site, errMoved)
	}
	point := dr.RecoveryPoint{ID: vault.NewID(time.Now(), p.app.Name), Application: p.app.Name, Site: s.own.Site, Epoch: s.own.Epoch,
		Started: c.Time.UTC(), Time: c.Time.UTC(), Objects: c.Objects, Missing: c.Missing}
	stored, err := s.store(ctx, &point)
	if err != nil {
		return fmt.Errorf("write the checkpoint of %s: %w", p.app.Name, err)
	}
	p.addData(&point)
	point.Finished = time.Now().UTC()
	if err := vault.SealPoint(ctx, p.vault, point); err != nil {
		return fmt.Errorf("seal recovery point %s: %w", point.ID, err)
	}
	p.mu.Lock()
	p.worked, p.waits = true, ""
	p.mu.Unlock()
	last := c.Last.UTC()
	p.tell(ProtectEvent{Type: EventPoint, Point: &point, Changed: c.Changed, LastChange: &last, StoredBytes: stored})
	return nil
}

// store makes the snapshot of a point.
func (s *stateStore) store(ctx context.Context, point *dr.RecoveryPoint) (stored int64, err error) {
	id, stored, err := s.documents.commit(ctx, s.snapshot, repo.Snapshot{Time: point.Started, Hostname: point.Site, Paths: []string{"/state"},
		Tags: protection{s.p.Operation}.tags(point.ID, "state")})
	if err != nil {
		return 0, err
	}
	s.snapshot, point.Checkpoint = id.String(), id.String()
	return stored, nil
}

// addData names the data that belongs to a point, and dates the point by the oldest of what it consists of. A
// datastore that was never copied under this epoch makes it incomplete.
func (p *protector) addData(point *dr.RecoveryPoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	point.Data = p.withLogs(p.data)
	for _, d := range point.Data {
		if d.Beacon.Time.Before(point.Time) {
			point.Time = d.Beacon.Time
		}
	}
	for _, ds := range p.app.Data {
		if !slices.ContainsFunc(point.Data, func(d dr.DataPoint) bool { return d.Datastore == ds.Name }) {
			point.Missing = append(point.Missing, "datastore "+ds.Name+": it was not copied yet at site "+point.Site)
		}
	}
}
