package observe

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/driver"
	"lifeboat.dev/lifeboat/internal/kube"
	"lifeboat.dev/lifeboat/internal/vault"
)

// siteDeadline bounds how long a site may take to say that it is there. A site that is lost often drops
// packets instead of refusing them, and everything waits for this.
const siteDeadline = 2 * time.Second

// SiteState is whether a site can be worked with now.
type SiteState struct {
	Name      string   `json:"name"`
	Reachable bool     `json:"reachable"`
	Reason    string   `json:"reason,omitempty"` // why not
	Class     dr.Class `json:"class,omitempty"`  // of that reason
	Remedy    string   `json:"remedy,omitempty"`
	Classes   []string `json:"classes,omitempty"` // names of its storage classes; nil when it was not asked
}

// HostState is what the authority of a host's zone answers.
type HostState struct {
	Host string `json:"host"`
	driver.Record
	Err string `json:"error,omitempty"`
}

// State is everything that is known of one application at one moment.
type State struct {
	Ownership dr.Ownership
	Points    []dr.RecoveryPoint // oldest first
	Sites     []SiteState
	Hosts     []HostState
}

// Sources are where an application's state is read from.
type Sources struct {
	Vault   *vault.Vault
	Connect func(ctx context.Context, site string) (*kube.Client, error)
	Traffic func(t dr.TrafficRef) (driver.Traffic, error)
}

// Application reads the state of one application, everything at once. A site or a zone that does not answer
// is part of the state; a vault that does not is an error, for nothing can be decided without it.
func Application(ctx context.Context, app *dr.Application, src Sources) (*State, error) {
	places := append([]string{app.Sites.Preferred}, app.Sites.Recovery...)
	st := &State{Sites: make([]SiteState, len(places)), Hosts: make([]HostState, len(app.Traffic))}
	var wg sync.WaitGroup
	for i, name := range places {
		wg.Go(func() { st.Sites[i] = site(ctx, name, src) })
	}
	for i, t := range app.Traffic {
		wg.Go(func() { st.Hosts[i] = host(ctx, t, src) })
	}
	err := fromVault(ctx, app, src.Vault, st)
	wg.Wait()
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("observe %s: %w", app.Name, context.Cause(ctx))
	}
	return st, nil
}

func fromVault(ctx context.Context, app *dr.Application, v *vault.Vault, st *State) error {
	own, _, err := v.Ownership(ctx, app.Name)
	if err != nil && !errors.Is(err, dr.ErrNotFound) {
		return fmt.Errorf("read who owns %s: %w", app.Name, err)
	}
	st.Ownership = own
	if st.Points, err = v.Points(ctx, app.Name); err != nil {
		return fmt.Errorf("read the recovery points of %s: %w", app.Name, err)
	}
	return nil
}

func site(ctx context.Context, name string, src Sources) SiteState {
	ctx, cancel := context.WithTimeout(ctx, siteDeadline)
	defer cancel()
	s := SiteState{Name: name}
	client, err := src.Connect(ctx, name)
	if err != nil {
		s.Reason, s.Class = err.Error(), dr.ClassOf(err)
		var e *dr.Error
		if errors.As(err, &e) {
			s.Remedy = e.Next
		}
		return s
	}
	classes, err := client.Typed.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		s.Reason = fmt.Sprintf("list its storage classes: %v", err)
		return s
	}
	s.Reachable = true
	s.Classes = make([]string, 0, len(classes.Items))
	for _, c := range classes.Items {
		s.Classes = append(s.Classes, c.Name)
	}
	return s
}

func host(ctx context.Context, t dr.TrafficRef, src Sources) HostState {
	ctx, cancel := context.WithTimeout(ctx, siteDeadline)
	defer cancel()
	h := HostState{Host: t.Host}
	d, err := src.Traffic(t)
	if err == nil {
		h.Record, err = d.Inspect(ctx, t.Host)
	}
	if err != nil {
		h.Err = err.Error()
	}
	return h
}
