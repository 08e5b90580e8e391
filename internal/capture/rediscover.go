package capture

import (
	"context"
	"slices"
	"strings"
	"time"
)

// has says whether a namespace is the application's; what is in none is for the kinds to say.
func (s Scope) has(namespace string) bool {
	return namespace == "" || slices.Contains(s.Namespaces, namespace)
}

// splitPath reads the API group and the namespace from the path of a document.
func splitPath(path string) (group, namespace string) {
	parts := strings.Split(path, "/")
	switch {
	case len(parts) == 5 && parts[0] == "namespaces":
		return parts[2], parts[1]
	case len(parts) == 4 && parts[0] == "cluster":
		return parts[1], ""
	}
	return "", ""
}

// lookAgain makes the next look at what is served come earlier.
func (f *follower) lookAgain(in time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at := time.Now().Add(in); at.Before(f.rediscoverAt) {
		f.rediscoverAt = at
		f.nudge()
	}
}

// shelves are everything that is followed at a site that serves this.
func (f *follower) shelves(found discovered) []*shelf {
	return slices.Concat(f.namespaceShelves(), f.namespacedShelves(found.served), f.clusterShelves(found.served))
}

// rediscover looks at what is served now: new kinds are followed, those that are gone no longer. An answer
// that fails changes nothing.
func (f *follower) rediscover(ctx context.Context) error {
	found, err := f.discover(ctx)
	f.mu.Lock()
	f.rediscoverAt = time.Now().Add(f.o.rediscover)
	f.mu.Unlock()
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		f.waiting("waiting for site %s to say what it serves: %v", f.client.Site, err)
		f.lookAgain(lastRetry)
		return nil
	}
	served := map[string]resource{}
	for _, r := range found.served {
		served[r.GroupResource().String()] = r
	}
	for _, src := range f.sources.list() {
		r, there := served[src.shelf.kind()]
		switch {
		case there && r.GroupVersionResource == src.shelf.GroupVersionResource:
		case there: // it is preferred in another version now
			f.end(src)
			src.shelf.resource = r
			f.start(ctx, src.shelf)
		case !found.failed[src.shelf.Group]:
			if err := f.discardGone(ctx, src); err != nil {
				return err
			}
		}
	}
	for _, s := range f.shelves(found) {
		if !f.sources.follows(s.what()) {
			f.start(ctx, s)
		}
	}
	return nil
}

// end stops a source and waits for it.
func (f *follower) end(src *source) {
	src.stop()
	<-src.ended
	f.sources.remove(src)
}

// discardGone takes a kind out that the site neither names nor serves. Both have to be said: the one may be
// a fault of the answer, and a document is not deleted for a fault.
func (f *follower) discardGone(ctx context.Context, src *source) error {
	q := src.shelf.query("")
	q.limit = 1
	_, err := f.reader.page(ctx, q, func([]byte) error { return nil })
	if err == nil || judge(ctx, err) != gone {
		return nil
	}
	f.end(src)
	if f.missing.clear(src.shelf.what()) {
		f.touch()
	}
	w := f.worker(src.shelf)
	for _, name := range slices.Sorted(slices.Values(f.held.namesOf(src.shelf))) {
		if err := w.drop(ctx, name); err != nil {
			return err
		}
	}
	f.held.discard(src.shelf)
	f.o.Say("%s is not served any more at site %s", src.shelf.what(), f.client.Site)
	return nil
}
