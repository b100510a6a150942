package natskv

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// heartbeats sends heartbeats without waiting for their acknowledgements, which
// it collects. All acknowledgements arrive at one inbox.
type heartbeats struct {
	store *Store
	inbox string
	sub   *nats.Subscription

	mu     sync.Mutex
	sent   uint64
	flight map[string]*heartbeat // by the subject of the acknowledgement
	late   int                   // of these, those that are late
	acked  []*heartbeat          // not yet taken by collect
}

// heartbeat is one that was sent and may not be acknowledged yet.
type heartbeat struct {
	lease *lease
	seq   uint64 // of the entry that it prolongs
	at    time.Time
	err   error // of the acknowledgement
	late  bool  // the lease has been scheduled again
}

func newHeartbeats(s *Store) (*heartbeats, error) {
	h := &heartbeats{store: s, inbox: s.nc.NewInbox() + ".", flight: map[string]*heartbeat{}}
	sub, err := s.nc.Subscribe(h.inbox+"*", h.acknowledged)
	if err != nil {
		return nil, err
	}
	h.sub = sub
	return h, sub.SetPendingLimits(-1, -1) // each is the answer to a heartbeat
}

func (h *heartbeats) close() { _ = h.sub.Unsubscribe() }

// send sends the heartbeat of a lease whose entry is at seq.
func (h *heartbeats) send(l *lease, seq uint64, now time.Time) error {
	m := l.heartbeatMsg(seq)
	h.mu.Lock()
	h.sent++
	m.Reply = h.inbox + strconv.FormatUint(h.sent, 36)
	h.flight[m.Reply] = &heartbeat{lease: l, seq: seq, at: now}
	h.mu.Unlock()
	err := h.store.nc.PublishMsg(m)
	if err != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.flight, m.Reply)
	}
	return err
}

func (h *heartbeats) acknowledged(m *nats.Msg) {
	err := ackError(m)
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.flight[m.Subject]; b != nil {
		h.remove(m.Subject, b)
		b.err = err
		h.acked = append(h.acked, b)
	}
}

// ackError returns the error in an acknowledgement.
func ackError(m *nats.Msg) error {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return jetstream.ErrNoStreamResponse
	}
	if !strings.Contains(string(m.Data), `"error"`) {
		return nil
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return fmt.Errorf("acknowledgement %.100q: %w", m.Data, err)
	}
	if answer.Error == nil {
		return nil
	}
	return answer.Error
}

// collect returns the heartbeats that were acknowledged or refused since the last
// call, and those without an acknowledgement that were sent before overdue, each
// once. A late acknowledgement of these still counts, unless they were sent before
// expired: a server that is slow, but works, has prolonged the lease.
func (h *heartbeats) collect(overdue, expired time.Time) (acked, unanswered []*heartbeat) {
	h.mu.Lock()
	defer h.mu.Unlock()
	acked, h.acked = h.acked, nil
	for subject, b := range h.flight {
		if b.at.Before(overdue) && !b.late {
			unanswered = append(unanswered, h.setLate(b))
		}
		if b.at.Before(expired) {
			h.remove(subject, b)
		}
	}
	return acked, unanswered
}

// remove requires h.mu.
func (h *heartbeats) remove(subject string, b *heartbeat) {
	delete(h.flight, subject)
	if b.late {
		h.late--
	}
}

// setLate requires h.mu.
func (h *heartbeats) setLate(b *heartbeat) *heartbeat {
	b.late = true
	h.late++
	return b
}

// abandon returns the heartbeats without an acknowledgement that collect has not
// returned. A late acknowledgement of these counts.
func (h *heartbeats) abandon() (unanswered []*heartbeat) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.flight {
		if !b.late {
			unanswered = append(unanswered, h.setLate(b))
		}
	}
	return unanswered
}

// pending returns the number of heartbeats that wait for an acknowledgement which
// is not late.
func (h *heartbeats) pending() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.flight) - h.late
}
