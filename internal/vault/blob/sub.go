package blob

import (
	"context"
	"iter"
	"strings"
)

// Sub returns the part of a store whose names begin with dir and a slash, as a store of its own.
func Sub(s Store, dir string) Store { return sub{s, dir + "/"} }

type sub struct {
	store  Store
	prefix string
}

func (s sub) Location() string {
	base, query, found := strings.Cut(s.store.Location(), "?")
	base += "/" + strings.TrimSuffix(s.prefix, "/")
	if found {
		base += "?" + query
	}
	return base
}

func (s sub) Put(ctx context.Context, name string, data []byte, cond Condition) (Version, error) {
	return s.store.Put(ctx, s.prefix+name, data, cond)
}

func (s sub) Get(ctx context.Context, name string, r Range) (Object, error) {
	return s.store.Get(ctx, s.prefix+name, r)
}

func (s sub) Stat(ctx context.Context, name string) (Info, error) {
	info, err := s.store.Stat(ctx, s.prefix+name)
	info.Name = strings.TrimPrefix(info.Name, s.prefix)
	return info, err
}

func (s sub) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for info, err := range s.store.List(ctx, s.prefix+prefix) {
			info.Name = strings.TrimPrefix(info.Name, s.prefix)
			if !yield(info, err) {
				return
			}
		}
	}
}

func (s sub) Delete(ctx context.Context, name string) error {
	return s.store.Delete(ctx, s.prefix+name)
}
