package procnode

import "sync"

// signal wakes everybody who waits for something to change.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// changed closes at the next fire; take it before looking at what may change.
func (s *signal) changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
