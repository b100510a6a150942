//go:build cgo && !nozmq

package zmq

import (
	"strings"
	"time"

	"github.com/dynplane/dynplane/internal/rawzmq"
)

// maxProbes bounds the number of subscribers that are distinguished. Those beyond it
// count like subscribers of other libraries.
const maxProbes = 1 << 16

// subscriptions are those that peers of a publisher have now, as far as they matter.
type subscriptions struct {
	subject  string
	matching int            // subscriptions to a prefix of subject
	probes   map[string]int // number of connections that have subscribed to a probe topic
	probing  int            // sum of these
}

// add adds n, +1 or -1, to the number of subscriptions to prefix. It reports whether
// prefix is one of subject, or a probe topic.
func (s *subscriptions) add(prefix []byte, n int) (matches, probe bool) {
	switch {
	case strings.HasPrefix(s.subject, string(prefix)):
		s.matching = max(0, s.matching+n) // peers can end what they have not begun
		return true, false
	case !isProbe(prefix):
		return false, false
	}
	count, known := s.probes[string(prefix)]
	switch {
	case known && count+n <= 0:
		delete(s.probes, string(prefix))
	case known || n > 0 && len(s.probes) < maxProbes:
		s.probes[string(prefix)] = count + n
	default:
		return false, true
	}
	s.probing += n
	return false, true
}

// subscribers returns the number of subscribers. One of this module has subscribed to
// subject and to a probe topic of its own, on each of its connections: it has two for
// a moment after it has reconnected. Of any other it is known only that each has a
// matching subscription.
func (s *subscriptions) subscribers() int { return len(s.probes) + max(0, s.matching-s.probing) }

// arrivals are the handshakes of a direct publisher that no subscription has followed.
// They are peers without endpoints: those that connect to it.
type arrivals struct{ times []time.Time }

// arrivalGrace is how long after the handshake a subscription may arrive. A peer that
// subscribes only to other subjects delays Ready for so long.
const arrivalGrace = time.Second

func (a *arrivals) handleEvent(e rawzmq.Event, now time.Time) {
	if e.Kind == rawzmq.HandshakeSucceeded {
		a.times = append(a.times, now)
	}
}

// prove removes the oldest arrival: it is not known which one it is.
func (a *arrivals) prove(int) {
	if len(a.times) > 0 {
		a.times = a.times[1:]
	}
}

func (a *arrivals) settled() bool { return len(a.times) == 0 }

func (a *arrivals) nextDeadline() time.Time {
	if a.settled() {
		return time.Time{}
	}
	return a.times[0].Add(arrivalGrace)
}

func (a *arrivals) runDue(now time.Time) {
	for !a.settled() && !now.Before(a.nextDeadline()) {
		a.times = a.times[1:]
	}
}
