package main

import (
	"fmt"
	"strings"
	"testing"

	"lifeboat.dev/lifeboat/internal/diff"
	"lifeboat.dev/lifeboat/internal/restore"
	"lifeboat.dev/lifeboat/internal/wire"
)

func TestWriteDryRun(t *testing.T) {
	t.Parallel()
	d := &wire.DryRun{
		Forecast: restore.Forecast{Counts: map[restore.Outcome]int{restore.Refused: 1, restore.Changed: 2, restore.Created: shownObjects + 2, restore.Unchanged: 7}, NotChosen: 3,
			Obstacles: []string{"storage class a does not exist"}, Waits: []string{"namespace b is being deleted"}},
		Objects: []restore.Foreseen{
			{Object: "Service shop/web", Outcome: restore.Refused, Reason: "port 30080 is taken"},
			{Object: "ConfigMap shop/web", Outcome: restore.Changed, Notes: []string{"label a is dropped"}, Fields: []diff.Field{{Path: "data.a", Op: diff.Changed, Before: "1", After: "2"}}},
			{Object: "Secret shop/key", Outcome: restore.Changed},
		},
	}
	for i := range shownObjects + 2 {
		d.Objects = append(d.Objects, restore.Foreseen{Object: fmt.Sprintf("ConfigMap shop/c%02d", i), Outcome: restore.Created, Untried: "its namespace is not there yet"})
	}
	d.Objects = append(d.Objects, restore.Foreseen{Object: "ConfigMap shop/same", Outcome: restore.Unchanged})
	var b strings.Builder
	if err := writeDryRun(&b, d); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, want := range []string{
		"\nObjects: 1 refused, 2 changed, 42 created, 7 unchanged, 3 not chosen\n  would stop for: storage class a does not exist\n  would wait: namespace b is being deleted\n",
		"refused   Service shop/web: port 30080 is taken\n",
		"changed   ConfigMap shop/web\n    * label a is dropped\n    ~ data.a: 1 → 2\n",
		"changed   Secret shop/key\n    only in who has set what, or in what owns it\n",
		"created   ConfigMap shop/c39 (the site was not asked: its namespace is not there yet)\n  … 2 more created; -o json has them\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no\n%sin\n%s", want, got)
		}
	}
	if strings.Contains(got, "c40") || strings.Contains(got, "shop/same") {
		t.Errorf("too much is shown:\n%s", got)
	}
}
