package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"lifeboat.dev/lifeboat/lab/internal/site"
	"lifeboat.dev/lifeboat/lab/internal/state"
)

// Usage is what the processes of one site (or of the world) took of the machine.
type Usage struct {
	Site     string         `json:"site"`
	PSSBytes uint64         `json:"pssBytes"` // proportional set size: shared pages counted once
	Cores    float64        `json:"cores"`    // mean over the time measured; 1 is one core wholly busy
	Programs []ProgramUsage `json:"programs"`
}

// ProgramUsage is the part of one program.
type ProgramUsage struct {
	Name      string  `json:"name"`
	Processes int     `json:"processes"`
	PSSBytes  uint64  `json:"pssBytes"`
	Cores     float64 `json:"cores"`
}

// Measure watches the lab's processes for so long and says what each site took. Processes that end
// meanwhile count up to their end or not at all.
func (l *Lab) Measure(ctx context.Context, d time.Duration) ([]Usage, error) {
	st, err := l.State()
	if err != nil {
		return nil, err
	}
	before, err := site.Sample(st.Dir)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("measure the lab: %w", context.Cause(ctx))
	case <-time.After(d):
	}
	after, err := site.Sample(st.Dir)
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	var all []Usage
	for _, s := range append(names(st), state.World) {
		all = append(all, usageOf(s, before, after, took))
	}
	return all, nil
}

func names(st *State) []string {
	var all []string
	for _, s := range st.Sites {
		all = append(all, s.Name)
	}
	return all
}

func usageOf(name string, before, after map[site.Ref]site.Use, took time.Duration) Usage {
	u := Usage{Site: name}
	by := map[string]*ProgramUsage{}
	for ref, a := range after {
		if a.Site != name {
			continue
		}
		p := by[a.Name]
		if p == nil {
			p = &ProgramUsage{Name: a.Name}
			by[a.Name] = p
		}
		cores := (a.CPU - before[ref].CPU).Seconds() / took.Seconds()
		p.Processes++
		p.PSSBytes += a.PSSBytes
		p.Cores += cores
		u.PSSBytes += a.PSSBytes
		u.Cores += cores
	}
	for _, p := range by {
		u.Programs = append(u.Programs, *p)
	}
	slices.SortFunc(u.Programs, func(a, b ProgramUsage) int {
		if a.PSSBytes != b.PSSBytes {
			return int(b.PSSBytes) - int(a.PSSBytes)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return u
}
