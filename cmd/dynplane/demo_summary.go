package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// stamped is the part of a routerEvent that the demo's subscriber decodes.
type stamped struct {
	Event struct {
		SentNS int64 `json:"sent_ns"`
	} `json:"event"`
}

// maxSamples bounds the memory of a long demo: 8 MB.
const maxSamples = 1 << 20

// tally counts received events. It is safe for concurrent use.
type tally struct {
	mu      sync.Mutex
	events  uint64
	missed  uint64
	samples []int64 // latencies in ns; of too many events a random selection
	since   time.Time
	last    mark
}

// mark is the number of events at a point in time.
type mark struct {
	events uint64
	at     time.Time
}

// add counts an event. Events missed before the clock starts count as missed too.
func (t *tally) add(latency int64, missed uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events++
	t.missed += missed
	if len(t.samples) < maxSamples {
		t.samples = append(t.samples, latency)
	} else if i := rand.Uint64N(t.events); i < maxSamples {
		t.samples[i] = latency
	}
}

// restart resets the number of events to 0.
func (t *tally) restart() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events, t.samples, t.since = 0, t.samples[:0], time.Now()
	t.last = mark{0, t.since}
}

// rate returns the events per second since its last call.
func (t *tally) rate() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	last, now := t.last, mark{t.events, time.Now()}
	t.last = now
	return float64(now.events-last.events) / now.at.Sub(last.at).Seconds()
}

// total is the result of a tally since its restart.
type total struct {
	events, missed uint64
	rate           float64 // events per second
	p50, p99       time.Duration
}

func (t *tally) sum() total {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.Sort(t.samples)
	return total{
		events: t.events, missed: t.missed,
		rate: float64(t.events) / time.Since(t.since).Seconds(),
		p50:  percentile(t.samples, 50), p99: percentile(t.samples, 99),
	}
}

// percentile returns a percentile of sorted samples, or 0 if there are none.
func percentile(sorted []int64, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return time.Duration(sorted[(len(sorted)-1)*percent/100])
}

// summary is the outcome of a demo.
type summary struct {
	Transport      string  `json:"transport"`
	Workers        int     `json:"workers"`
	Events         uint64  `json:"events"`
	Rate           float64 `json:"rate"` // events per second
	P50US          int64   `json:"p50_us"`
	P99US          int64   `json:"p99_us"`
	Missed         uint64  `json:"missed"`
	RemovedAfterMS *int64  `json:"removed_after_ms"` // null if not removed
	TTLMS          int64   `json:"ttl_ms"`
}

func (d *demo) summary() summary {
	t := d.tally.sum()
	s := summary{
		Transport: d.transport, Workers: len(d.workers),
		Events: t.events, Rate: math.Round(t.rate*10) / 10, Missed: t.missed,
		P50US: t.p50.Microseconds(), P99US: t.p99.Microseconds(),
		TTLMS: d.ttl.Milliseconds(),
	}
	if d.removedAfter > 0 {
		ms := d.removedAfter.Milliseconds()
		s.RemovedAfterMS = &ms
	}
	return s
}

// String returns the summary as text.
func (s summary) String() string {
	removed := "no"
	if s.RemovedAfterMS != nil {
		removed = fmt.Sprintf("%.2fs after kill -9 (TTL %v)",
			float64(*s.RemovedAfterMS)/1000, time.Duration(s.TTLMS)*time.Millisecond)
	}
	return fmt.Sprintf(`
  transport  %s
  workers    %d
  events     %d, %.0f/s
  latency    p50 %v, p99 %v
  missed     %d, since the first event of each worker
  removed    %s
`, s.Transport, s.Workers, s.Events, s.Rate,
		time.Duration(s.P50US)*time.Microsecond, time.Duration(s.P99US)*time.Microsecond, s.Missed, removed)
}

// verdict returns the error of a demo that ran to its end.
func (d *demo) verdict(s summary) error {
	switch {
	case s.Missed > 0:
		return fmt.Errorf("demo: %d events were missed", s.Missed)
	case s.RemovedAfterMS == nil && !d.interrupted:
		return fmt.Errorf("demo: %s was not removed within %v of the kill", d.killed, d.ttl+removalPatience)
	}
	return nil
}
