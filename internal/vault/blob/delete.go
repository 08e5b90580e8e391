package blob

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"
)

// deleters bounds the objects that are deleted at the same time.
const deleters = 8

// DeleteAll deletes n objects, several at once, and tells of each, one at a time, whether the store keeps it
// until it may go. The first error ends it.
func DeleteAll(ctx context.Context, s Store, n int, name func(i int) string, told func(i int, retained bool)) error {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deleters)
	for i := range n {
		group.Go(func() error {
			err := s.Delete(ctx, name(i))
			retained := errors.Is(err, ErrRetained)
			if err != nil && !retained {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			told(i, retained)
			return nil
		})
	}
	return group.Wait()
}
