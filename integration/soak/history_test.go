package soak

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// history records what the owners did, and judges what watchers report by it.
type history struct {
	t        *testing.T
	ttl      time.Duration
	replicas int

	mu      sync.Mutex
	number  int
	handles map[discovery.ID][]*handle
	starved time.Time // this process was not executed in time, shortly before
	gone    int       // violations, of which only the first are logged
}

// handle is one call of Register and the registration that it returned.
type handle struct {
	owner  *owner
	id     discovery.ID
	number int
	reg    *discovery.Registration // nil until Register has returned

	// Guarded by history.mu.
	version int       // of the value
	tried   int       // the version of the last update, which may have failed
	begun   time.Time // before Register
	fate    time.Time // since when it may be removed: the beginning of Unregister, of a crash, or of a call that failed
	ended   time.Time // when Wait returned, or Register failed
	cause   error
}

func (h *handle) spec(version int) discovery.Endpoint {
	return discovery.Endpoint{Scope: h.id.Scope, Transport: discovery.TCP(fmt.Sprintf("127.0.0.1:4000/%d/%d", h.number, version))}
}

// valueOf returns the numbers of the handle and the version in a value.
func valueOf(in discovery.Instance) (number, version int, err error) {
	e, ok := in.Spec.(discovery.Endpoint)
	if !ok {
		return 0, 0, fmt.Errorf("a %T", in.Spec)
	}
	_, err = fmt.Sscanf(e.Transport.Address, "127.0.0.1:4000/%d/%d", &number, &version)
	return number, version, err
}

// violation reports a promise that was broken.
func (y *history) violation(format string, args ...any) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.gone++; y.gone <= 20 {
		y.t.Errorf("%s %s", time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
	}
}

func (y *history) begin(o *owner, id discovery.ID) *handle {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.number++
	h := &handle{owner: o, id: id, number: y.number, begun: time.Now()}
	y.handles[id] = append(y.handles[id], h)
	return h
}

// doom records that a handle may be removed from now on.
func (y *history) doom(h *handle) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if h.fate.IsZero() {
		h.fate = time.Now()
	}
}

// failed records that Register returned an error.
func (y *history) failed(h *handle) {
	y.mu.Lock()
	defer y.mu.Unlock()
	h.fate, h.ended = h.begun, time.Now()
}

// end records that Wait returned.
func (y *history) end(h *handle, cause error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	h.ended, h.cause = time.Now(), cause
}

func (y *history) doomed(h *handle) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	return !h.fate.IsZero() || !h.ended.IsZero()
}

// starve records that this process, and so its owners, got no processor for long
// enough to lose leases. No promise holds then.
func (y *history) starve() {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.t.Logf("this process was not executed in time; removals are excused for a while")
	y.starved = time.Now()
}

// find returns the handle of a value that was reported for an id, or nil if no
// owner ever wrote such a value.
func (y *history) find(in discovery.Instance) *handle {
	number, version, err := valueOf(in)
	if err != nil {
		return nil
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, h := range y.handles[in.ID()] {
		if h.number == number && version <= h.tried {
			return h
		}
	}
	return nil
}

// mayBeRemoved reports whether a watcher may report that the instance of h was
// removed: if h, or a registration of the same id that the watcher may have missed,
// was ended by its owner, or its owner cannot have prolonged it.
func (y *history) mayBeRemoved(h *handle) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	if !y.starved.IsZero() && time.Since(y.starved) < y.settling() {
		return true
	}
	for _, other := range y.handles[h.id] {
		if !other.ended.IsZero() && other.ended.Before(h.begun) {
			continue
		}
		if !other.fate.IsZero() || other.owner.partitioned(y.settling()) {
			return true
		}
	}
	return false
}

// hold is how long a watcher holds a removal that a fault may have caused.
func (y *history) hold() time.Duration { return y.ttl + max(y.ttl/2, 2*time.Second) }

// settling is how long the effects of a fault may last: the leases of the dead
// expire, watchers hold their removals, and both reconnect, with generous room. The
// bucket of a cluster whose servers were all lost follows up to a minute later.
func (y *history) settling() time.Duration {
	room := 30 * time.Second
	if y.replicas > 1 {
		room += time.Minute
	}
	return y.ttl + y.hold() + room
}

// living returns the values that are registered. An id with several living
// registrations, all but one of which should have ended with ErrTakenOver, is an
// error.
func (y *history) living() (values map[discovery.ID]string, err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	values = map[discovery.ID]string{}
	for id, handles := range y.handles {
		for _, h := range handles {
			if !h.fate.IsZero() || !h.ended.IsZero() {
				continue
			}
			if former, ok := values[id]; ok {
				err = fmt.Errorf("%s: %s and %d/%d are registered, and neither has ended with ErrTakenOver", id.Path(), former, h.number, h.version)
			}
			values[id] = fmt.Sprintf("%d/%d", h.number, h.version)
			if health, _ := h.reg.Health(); !health.Healthy {
				err = fmt.Errorf("%s: the registration %s is not healthy: %w", id.Path(), values[id], health.Err)
			}
		}
	}
	return values, err
}

// review checks how registrations ended, and forgets those that did.
func (y *history) review() {
	y.mu.Lock()
	var wrong []string
	for id, handles := range y.handles {
		alive, fated := 0, 0
		for _, h := range handles {
			if h.fate.IsZero() && h.ended.IsZero() {
				alive++
			}
			if !h.fate.IsZero() {
				fated++
			}
			if h.fate.IsZero() && !h.ended.IsZero() && (!errors.Is(h.cause, discovery.ErrTakenOver) || len(handles) == 1) {
				wrong = append(wrong, fmt.Sprintf("%s: a registration that nothing ended has ended: %v", id.Path(), h.cause))
			}
			if h.ended.IsZero() && !h.fate.IsZero() {
				wrong = append(wrong, fmt.Sprintf("%s: the owner crashed or unregistered, and Wait does not return", id.Path()))
			}
		}
		if alive == 0 && fated == 0 && len(handles) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s: all %d registrations ended with ErrTakenOver", id.Path(), len(handles)))
		}
		y.handles[id] = slices.DeleteFunc(handles, func(h *handle) bool { return !h.ended.IsZero() })
	}
	maps.DeleteFunc(y.handles, func(_ discovery.ID, handles []*handle) bool { return len(handles) == 0 })
	y.mu.Unlock()
	for _, text := range wrong {
		y.violation("%s", text)
	}
}
