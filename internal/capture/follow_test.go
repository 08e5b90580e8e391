package capture

import (
	"slices"
	"testing"
	"time"
)

// TestWhenACheckpointIsDue: soon after the last change, at the latest an interval after the first one, and
// never sooner than an interval after the checkpoint before.
func TestWhenACheckpointIsDue(t *testing.T) {
	t.Parallel()
	const interval = 5 * time.Second
	began := time.Now()
	at := func(d time.Duration) time.Time { return began.Add(d) }
	for name, c := range map[string]struct {
		first, last, committed time.Time
		want                   time.Time
	}{
		"the first one":       {at(0), at(time.Second), time.Time{}, at(time.Second + quiet)},
		"long after another":  {at(0), at(0), at(-time.Hour), at(quiet)},
		"changes do not stop": {at(0), at(5 * time.Second), at(-time.Hour), at(interval)},
		"too soon":            {at(0), at(time.Second), at(-time.Second), at(4 * time.Second)},
		"just after another":  {at(0), at(0), at(0), at(interval)},
	} {
		f := &follower{o: FollowOptions{Interval: interval}, first: c.first, last: c.last, committed: c.committed}
		if got := f.due(); !got.Equal(c.want) {
			t.Errorf("%s: due after %s, want %s", name, got.Sub(began), c.want.Sub(began))
		}
	}
}

// TestRecall puts the documents of a checkpoint on their shelves.
func TestRecall(t *testing.T) {
	t.Parallel()
	h := newHeld([]string{"shop"})
	maps := resource{namespaced: true}
	maps.Version, maps.Resource = "v1", "configmaps"
	spaces := resource{}
	spaces.Version, spaces.Resource = "v1", "namespaces"
	h.place([]*shelf{{resource: maps, namespace: "shop"}, {resource: spaces, only: "shop"}})
	others := h.recall(slices.Values([]string{
		MetaPath, "namespaces/shop/core/configmaps/a.json", "namespaces/shop/core/configmaps/b.c.json", "cluster/core/namespaces/shop.json",
		"cluster/core/namespaces/other.json", "namespaces/shop/example.com/toys/ball.json", "namespaces/old/core/configmaps/a.json",
	}))
	want := []string{"cluster/core/namespaces/other.json", "namespaces/shop/example.com/toys/ball.json", "namespaces/old/core/configmaps/a.json"}
	if !slices.Equal(others, want) {
		t.Errorf("left over: %v", others)
	}
	var r Result
	r.Counts, r.APIVersions = map[string]int{}, map[string][]string{}
	h.describe(&r)
	if r.Objects != 3 || r.Counts["configmaps"] != 2 || r.Counts["namespaces"] != 1 {
		t.Errorf("%d objects: %v", r.Objects, r.Counts)
	}
	for path, want := range map[string][2]string{
		"namespaces/shop/example.com/toys/ball.json": {"example.com", "shop"}, "cluster/core/persistentvolumes/a.json": {"core", ""}, MetaPath: {"", ""},
	} {
		if group, ns := splitPath(path); group != want[0] || ns != want[1] {
			t.Errorf("%s is of group %q in namespace %q", path, group, ns)
		}
	}
}
