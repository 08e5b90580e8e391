package plan

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

// PointRef says which recovery point is wanted. Zero: the newest complete one.
type PointRef struct {
	ID string    // its id, or the beginning of one that no other shares
	At time.Time // the newest complete one that is not after this instant
}

// Latest is how a person asks for the newest complete recovery point.
const Latest = "latest"

var (
	ago     = regexp.MustCompile(`^([0-9]+)\s*(s|m|h|d|w)[a-z]*(?:\s+ago)$`)
	pointID = regexp.MustCompile(`^[A-Za-z0-9][-A-Za-z0-9._]*$`)
)

// ParsePoint reads what a person writes for a recovery point: "latest", a time (RFC 3339, or
// "2026-11-25 10:30" in now's time zone), "10m ago", an id or its beginning.
func ParsePoint(s string, now time.Time) (PointRef, error) {
	s = strings.TrimSpace(s)
	if s == "" || s == Latest {
		return PointRef{}, nil
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return PointRef{At: at.UTC()}, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if at, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return PointRef{At: at.UTC()}, nil
		}
	}
	if day, err := time.ParseInLocation(time.DateOnly, s, now.Location()); err == nil {
		return PointRef{At: day.AddDate(0, 0, 1).Add(-time.Nanosecond).UTC()}, nil // the day's last
	}
	if m := ago.FindStringSubmatch(s); m != nil {
		n, err := strconv.ParseInt(m[1], 10, 32)
		if err == nil {
			unit := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour}[m[2]]
			return PointRef{At: now.Add(-time.Duration(n) * unit).UTC()}, nil
		}
	}
	if pointID.MatchString(s) {
		return PointRef{ID: s}, nil
	}
	return PointRef{}, dr.Errorf(dr.ClassUsage, nil, `Write a time ("2026-11-25 10:30", "2026-11-25T10:30:00Z", "10m ago"), the id of a recovery point or its beginning, or latest.`,
		"%q names no recovery point", s)
}

// Choose returns the recovery point that a request means, with what is to be said of it. Errors are those
// of Build.
func Choose(f Facts, r Request) (p Point, notes []string, err error) {
	b := &builder{facts: f, request: r}
	p, err = choice{b}.choosePoint()
	return p, append(b.plan.Notes, b.plan.Warnings...), err
}

// choice is the part of building that finds the recovery point.
type choice struct{ *builder }

// choosePoint returns the recovery point asked for, or the newest that holds everything.
func (b choice) choosePoint() (Point, error) {
	points := b.points()
	name := b.app().Name
	if len(points) == 0 {
		return Point{}, dr.Errorf(dr.ClassBlocked, nil, "Take one while the application runs: lifeboat backup "+name, "%s has no recovery point", name)
	}
	if b.request.Point.ID != "" {
		return b.pointAsked(points)
	}
	early, err := b.notAfter(points)
	if err != nil {
		return Point{}, err
	}
	for i, p := range early {
		if len(b.lacks(p)) > 0 {
			continue
		}
		if i > 0 {
			b.warn("recovery point %s is newer than %s but lacks %s, and is passed over", early[0].ID, p.ID, strings.Join(b.lacks(early[0]), ", "))
		}
		b.describe(p)
		return p, nil
	}
	next := fmt.Sprintf("To take it all the same, name it: --at %s", early[0].ID)
	return Point{}, dr.Errorf(dr.ClassBlocked, fmt.Errorf("the newest, %s, lacks %s", early[0].ID, strings.Join(b.lacks(early[0]), ", ")), next,
		"%s has no complete recovery point%s", name, b.until())
}

// notAfter keeps the points up to the time asked for, newest first.
func (b choice) notAfter(points []Point) ([]Point, error) {
	at := b.request.Point.At
	if at.IsZero() {
		return points, nil
	}
	early := slices.DeleteFunc(slices.Clone(points), func(p Point) bool { return p.Time.After(at) })
	if len(early) == 0 {
		oldest := points[len(points)-1]
		return nil, dr.Errorf(dr.ClassBlocked, nil, "Ask for a later time, or name it: --at "+oldest.ID, "%s has no recovery point%s; the oldest, %s, is of %s",
			b.app().Name, b.until(), oldest.ID, instant(oldest.Time))
	}
	return early, nil
}

func (b choice) until() string {
	if at := b.request.Point.At; !at.IsZero() {
		return " up to " + instant(at)
	}
	return ""
}

// pointAsked finds the point of an id, or of the beginning of one.
func (b choice) pointAsked(points []Point) (Point, error) {
	asked := b.request.Point.ID
	var ids []string
	var found []Point
	for _, p := range points {
		ids = append(ids, p.ID)
		if p.ID == asked {
			found = []Point{p}
			break
		}
		if strings.HasPrefix(p.ID, asked) {
			found = append(found, p)
		}
	}
	const shown = 5
	switch len(found) {
	case 0:
		return Point{}, dr.Errorf(dr.ClassUsage, nil, "The newest are "+strings.Join(ids[:min(shown, len(ids))], ", ")+".", "%s has no recovery point %q", b.app().Name, asked)
	case 1:
	default:
		ids = ids[:0]
		for _, p := range found[:min(shown, len(found))] {
			ids = append(ids, p.ID)
		}
		return Point{}, dr.Errorf(dr.ClassUsage, nil, "Write more of it: "+strings.Join(ids, ", ")+".", "%d recovery points of %s begin with %q", len(found), b.app().Name, asked)
	}
	if lacks := b.lacks(found[0]); len(lacks) > 0 {
		b.warn("recovery point %s is incomplete: it lacks %s", found[0].ID, strings.Join(lacks, ", "))
	}
	b.describe(found[0])
	return found[0], nil
}

// describe says in the plan which point it is, and what its data is.
func (b choice) describe(p Point) {
	asked := ""
	if at := b.request.Point.At; !at.IsZero() {
		asked = fmt.Sprintf(", %s before the time asked for", short(at.Sub(p.Time)))
	}
	b.note("recovery point %s is of %s%s: %d objects of %s", p.ID, instant(p.Time), asked, p.Objects, p.Site)
	for _, d := range p.Data {
		b.note("%s is of %s (beacon %d, %s copy)", d.Datastore, instant(d.Beacon.Time), d.Beacon.Sequence, cmp.Or(string(d.Consistency), "unknown"))
		if to, ok := p.Logs[d.Datastore]; ok && b.request.Point.ID == "" {
			b.note("its log goes on to %s", instant(to))
		}
	}
	if rpo := b.app().Objectives.RPO; rpo > 0 && p.Age > rpo && b.request.Point.At.IsZero() {
		b.warn("recovery point %s is %s old, objective %s", p.ID, short(p.Age), short(rpo))
	}
}

func instant(t time.Time) string {
	if t.IsZero() {
		return "an unknown time"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// points returns the application's recovery points, newest first. The epoch decides before the clock:
// two epochs were written by two sites, whose clocks say nothing of each other.
func (b choice) points() []Point {
	var out []Point
	for _, p := range b.facts.Points {
		if p.Application == b.app().Name {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(x, y Point) int {
		return cmp.Or(cmp.Compare(y.Epoch, x.Epoch), y.Time.Compare(x.Time), cmp.Compare(y.ID, x.ID))
	})
	return out
}

// lacks names what a point would have to hold to bring back what is asked for.
func (b choice) lacks(p Point) []string {
	out := slices.Clone(p.Missing)
	for _, ds := range b.scope().data() {
		if !holds(p, ds.Name) && !slices.Contains(out, ds.Name) {
			out = append(out, "datastore "+ds.Name)
		}
	}
	return out
}

func holds(p Point, datastore string) bool {
	return slices.ContainsFunc(p.Data, func(d dr.DataPoint) bool { return d.Datastore == datastore })
}
