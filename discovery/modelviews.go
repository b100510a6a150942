package discovery

import (
	"sync"
	"time"
)

// modelViews are the views of a client. The zero value is ready to use.
type modelViews struct {
	mu      sync.Mutex
	byScope map[Scope]*modelView
	closed  bool
	closing sync.WaitGroup // idle views that are being closed
}

// viewLinger is how long a view is kept after its last use, so that a worker that
// registers one model after another reads those of its endpoint once. An idle view
// is not kept for longer, since an open watch occupies the server.
const viewLinger = 2 * time.Second

// acquire returns the view of an endpoint. The caller must release it.
func (s *modelViews) acquire(c *Client, scope Scope) *modelView {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.byScope[scope]
	if v == nil {
		v = newModelView(c, scope)
		if s.byScope == nil {
			s.byScope = map[Scope]*modelView{}
		}
		s.byScope[scope] = v
	}
	v.users++
	if v.idle != nil {
		v.idle.Stop() // if that is too late, expire finds a user
		v.idle = nil
	}
	return v
}

// release closes the view some time after its last user has released it, and at
// once if the client is shut down.
func (s *modelViews) release(v *modelView) {
	s.mu.Lock()
	v.users--
	unused := s.closed && s.remove(v)
	if v.users == 0 && !s.closed {
		v.idle = time.AfterFunc(viewLinger, func() { s.expire(v) })
	}
	s.mu.Unlock()
	if unused {
		v.drop()
	}
}

// remove removes a view without users, which the caller must drop, and reports
// whether it has. It requires s.mu.
func (s *modelViews) remove(v *modelView) bool {
	if v.users > 0 || s.byScope[v.query.Scope] != v {
		return false
	}
	delete(s.byScope, v.query.Scope)
	return true
}

// expire closes a view that has been idle, unless it is in use again.
func (s *modelViews) expire(v *modelView) {
	s.mu.Lock()
	unused := !s.closed && s.remove(v)
	if unused {
		s.closing.Add(1)
	}
	s.mu.Unlock()
	if unused {
		v.drop()
		s.closing.Done()
	}
}

// close closes the views that are idle, and waits for that. Those in use are
// closed by their last users.
func (s *modelViews) close() {
	s.mu.Lock()
	s.closed = true
	var idle []*modelView
	for _, v := range s.byScope {
		if s.remove(v) {
			v.idle.Stop()
			idle = append(idle, v)
		}
	}
	s.mu.Unlock()
	for _, v := range idle {
		v.drop()
	}
	s.closing.Wait()
}
