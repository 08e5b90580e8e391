package repo

import (
	"context"
	"errors"
	"sync"

	"lifeboat.dev/lifeboat/internal/vault/blob"
)

const (
	treeWindow  = 1 << 20 // bytes of a pack that are read at once for the trees in them
	treeWindows = 8       // that are kept
)

// treeSource reads many trees of one snapshot. They lie close together in few packs, so each request
// brings the neighbours too, which are wanted next.
type treeSource struct {
	repo *Repo

	mu      sync.Mutex
	windows []packWindow // the one that was used last comes last
}

// packWindow is a part of a pack.
type packWindow struct {
	pack   ID
	offset int64
	data   []byte
}

// open reads a tree. Errors: ErrNotFound, ErrDamaged.
func (s *treeSource) open(ctx context.Context, id ID) (*treeReader, error) {
	raw, err := s.load(ctx, id)
	if err != nil {
		return nil, err
	}
	return newTreeReader(id, raw)
}

func (s *treeSource) load(ctx context.Context, id ID) ([]byte, error) {
	pack, at, err := s.repo.catalog.locate(ctx, TreeBlob, id)
	if err != nil {
		return nil, err
	}
	sealed := s.cached(pack, at)
	if sealed == nil && at.Length < treeWindow {
		sealed = s.fetch(ctx, pack, at)
	}
	if sealed == nil {
		return s.repo.LoadBlob(ctx, TreeBlob, id) // which copes with packs that were rewritten, and words errors
	}
	return s.repo.unpack(TreeBlob, id, pack, at, sealed)
}

// cached returns a copy, because opening a blob changes its bytes.
func (s *treeSource) cached(pack ID, at place) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range s.windows {
		from := int64(at.Offset) - w.offset
		if w.pack != pack || from < 0 || from+int64(at.Length) > int64(len(w.data)) {
			continue
		}
		s.windows = append(append(s.windows[:i:i], s.windows[i+1:]...), w)
		return append([]byte{}, w.data[from:from+int64(at.Length)]...)
	}
	return nil
}

// fetch reads the part of the pack that the tree lies in; nil when that cannot be.
func (s *treeSource) fetch(ctx context.Context, pack ID, at place) []byte {
	offset := int64(at.Offset) / treeWindow * treeWindow
	end := max(offset+treeWindow, int64(at.Offset)+int64(at.Length))
	object, err := s.repo.store.Get(ctx, packName(pack), blob.Range{Offset: offset, Length: end - offset})
	if err != nil || int64(len(object.Data)) < int64(at.Offset)-offset+int64(at.Length) {
		return nil
	}
	s.mu.Lock()
	if len(s.windows) == treeWindows {
		s.windows = s.windows[1:]
	}
	s.windows = append(s.windows, packWindow{pack, offset, object.Data})
	s.mu.Unlock()
	return s.cached(pack, at)
}

// earlier gives out the nodes of a directory as an earlier snapshot has them, for names that are asked
// for in order.
type earlier struct {
	in   *treeReader
	node *Node // read and not asked for yet
}

// find returns nil when there was no such entry. What cannot be read of an earlier tree only means that
// there is less to compare with.
func (e *earlier) find(name string) *Node {
	for e.in != nil && (e.node == nil || e.node.Name < name) {
		var err error
		if e.node, err = e.in.next(); err != nil || e.node == nil {
			e.in, e.node = nil, nil
		}
	}
	if e.node != nil && e.node.Name == name {
		return e.node
	}
	return nil
}

// earlierTree begins an earlier directory; without an id, or when it is gone, there is none.
func (s *treeSource) earlierTree(ctx context.Context, id ID) (*earlier, error) {
	if id.IsZero() {
		return &earlier{}, nil
	}
	in, err := s.open(ctx, id)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDamaged) {
		return &earlier{}, nil
	}
	return &earlier{in: in}, err
}
