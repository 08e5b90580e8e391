package blob

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Mem is a Store in memory, for tests.
type Mem struct {
	mu      sync.Mutex
	objects map[string]memObject
	writes  uint64
}

type memObject struct {
	data    []byte
	version Version
}

// NewMem returns an empty store.
func NewMem() *Mem { return &Mem{objects: map[string]memObject{}} }

// Location implements Store.
func (m *Mem) Location() string { return "mem:" }

// Put implements Store.
func (m *Mem) Put(ctx context.Context, name string, data []byte, cond Condition) (Version, error) {
	if err := begin(ctx, name); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, there := m.objects[name]
	if err := allowed(cond, there, old.version); err != nil {
		return "", fmt.Errorf("put %s: %w", name, err)
	}
	m.writes++
	v := Version(strconv.FormatUint(m.writes, 10))
	m.objects[name] = memObject{data: bytes.Clone(data), version: v}
	return v, nil
}

// allowed judges a condition against what is there.
func allowed(cond Condition, there bool, is Version) error {
	switch {
	case cond.absent && there:
		return ErrExists
	case cond.version != "" && !there:
		return ErrNotFound
	case cond.version != "" && cond.version != is:
		return ErrStale
	}
	return nil
}

func begin(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	return CheckName(name)
}

// Get implements Store.
func (m *Mem) Get(ctx context.Context, name string, r Range) (Object, error) {
	if err := begin(ctx, name); err != nil {
		return Object{}, err
	}
	m.mu.Lock()
	o, there := m.objects[name]
	m.mu.Unlock()
	if !there {
		return Object{}, fmt.Errorf("get %s: %w", name, ErrNotFound)
	}
	offset, length, err := r.clip(int64(len(o.data)))
	if err != nil {
		return Object{}, fmt.Errorf("get %s: %w", name, err)
	}
	got := Object{Data: append([]byte{}, o.data[offset:offset+length]...)}
	if r.Whole() {
		got.Version = o.version
	}
	return got, nil
}

// Stat implements Store.
func (m *Mem) Stat(ctx context.Context, name string) (Info, error) {
	if err := begin(ctx, name); err != nil {
		return Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, there := m.objects[name]
	if !there {
		return Info{}, fmt.Errorf("stat %s: %w", name, ErrNotFound)
	}
	return Info{Name: name, Size: int64(len(o.data))}, nil
}

// List implements Store.
func (m *Mem) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		m.mu.Lock()
		var found []Info
		for name, o := range m.objects {
			if strings.HasPrefix(name, prefix) {
				found = append(found, Info{Name: name, Size: int64(len(o.data))})
			}
		}
		m.mu.Unlock()
		slices.SortFunc(found, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
		for _, info := range found {
			if ctx.Err() != nil {
				yield(Info{}, context.Cause(ctx))
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Delete implements Store.
func (m *Mem) Delete(ctx context.Context, name string) error {
	if err := begin(ctx, name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
	return nil
}
