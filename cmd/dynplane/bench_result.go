package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// benchResult is what bench discovery prints.
type benchResult struct {
	Owners   int     `json:"owners"`
	Entries  int     `json:"entries"` // of each owner
	Clients  int     `json:"clients"`
	Watchers int     `json:"watchers"`
	Killed   int     `json:"killed_clients"`
	TTL      float64 `json:"ttl_seconds"`
	RTT      float64 `json:"rtt_seconds"`
	Server   string  `json:"server"`

	Phases []benchPhase `json:"phases"`

	Sync    *spread `json:"sync_seconds,omitempty"`    // over the watchers
	Removal *spread `json:"removal_seconds,omitempty"` // over the watchers and the removed entries
	// Each watcher receives these until Synced, and at rest.
	Messages *spread `json:"watcher_messages,omitempty"`
	Bytes    *spread `json:"watcher_bytes,omitempty"`
	Resting  *spread `json:"watcher_messages_at_rest,omitempty"`

	// Missing is the number of entries that watchers had not received with Synced,
	// FalseRemovals that of removals of entries whose owner was alive, and
	// LostLeases that of entries whose living owner was not healthy at some time.
	Missing       int            `json:"missing"`
	FalseRemovals int            `json:"false_removals"`
	LostLeases    int            `json:"lost_leases"`
	Unfinished    []string       `json:"unfinished,omitempty"`
	Warnings      map[string]int `json:"warnings,omitempty"` // logged by living clients, by message
}

// benchPhase is what a phase cost. CPUSeconds are of the clients' process.
type benchPhase struct {
	Name       string            `json:"name"`
	Seconds    float64           `json:"seconds"`
	CPUSeconds float64           `json:"cpu_seconds,omitempty"`
	Server     *benchServerStats `json:"server,omitempty"`
}

// spread is the distribution of a value.
type spread struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// newSpread returns nil if there are no values.
func newSpread(values []float64) *spread {
	if len(values) == 0 {
		return nil
	}
	slices.Sort(values)
	return &spread{values[0], values[len(values)/2], values[len(values)-1]}
}

func seconds(d time.Duration) float64 { return inMillis(d.Seconds()) }

// inMillis rounds seconds to milliseconds.
func inMillis(seconds float64) float64 { return math.Round(seconds*1000) / 1000 }

// summarize completes the result, once the watches have ended.
func (b *bench) summarize() {
	r := &b.result
	r.Owners, r.Entries, r.Clients, r.Watchers = b.owners, b.entries, len(b.workers), len(b.followers)
	r.Killed, r.TTL, r.RTT, r.Warnings = b.killed(), b.app.ttl.Seconds(), b.rtt.Seconds(), b.warnings.counts()
	for _, l := range b.leases {
		if l.lost {
			r.LostLeases++
		}
	}
	var syncs, removals, messages, bytes, resting []float64
	for _, w := range b.followers {
		r.FalseRemovals += w.wrong
		for _, d := range w.removals {
			removals = append(removals, seconds(d))
		}
		if w.rested {
			resting = append(resting, float64(w.resting))
		}
		if w.took > 0 {
			r.Missing += b.owners*b.entries - w.listed
			syncs = append(syncs, seconds(w.took))
			messages, bytes = append(messages, float64(w.messages)), append(bytes, float64(w.bytes))
		}
	}
	r.Sync, r.Removal = newSpread(syncs), newSpread(removals)
	r.Messages, r.Bytes = newSpread(messages), newSpread(bytes)
	r.Resting = newSpread(resting)
}

// verdict returns an error if a promise was broken.
func (r *benchResult) verdict() error {
	broken := slices.Clone(r.Unfinished)
	if r.Missing != 0 {
		broken = append(broken, fmt.Sprintf("watchers missed %d entries", r.Missing))
	}
	if r.FalseRemovals > 0 {
		broken = append(broken, fmt.Sprintf("%d removals of entries whose owner was alive", r.FalseRemovals))
	}
	if r.LostLeases > 0 {
		broken = append(broken, fmt.Sprintf("%d leases of living owners were lost", r.LostLeases))
	}
	if len(broken) == 0 {
		return nil
	}
	return errors.New("bench: " + strings.Join(broken, "; "))
}

func (r *benchResult) writeTable(to io.Writer) error {
	_, err := fmt.Fprintf(to, "%d owners of %d entries on %d connections, %d of them killed; %d watchers; TTL %g s; RTT %g s\nserver: %s\n\n",
		r.Owners, r.Entries, r.Clients, r.Killed, r.Watchers, r.TTL, r.RTT, r.Server)
	if err != nil {
		return err
	}
	phases := newTable(to)
	phases.row("PHASE", "SECONDS", "CLIENT CPU", "SERVER CPU", "MSGS IN", "MSGS OUT", "API", "API ERRORS", "SLOW")
	for _, p := range r.Phases {
		cells := []string{p.Name, fmt.Sprintf("%.2f", p.Seconds), fmt.Sprintf("%.2f", p.CPUSeconds)}
		if s := p.Server; s != nil {
			cpu := "?"
			if s.CPUSeconds != nil {
				cpu = fmt.Sprintf("%.2f", *s.CPUSeconds)
			}
			cells = append(cells, cpu, fmt.Sprint(s.InMessages), fmt.Sprint(s.OutMessages),
				fmt.Sprint(s.APIRequests), fmt.Sprint(s.APIErrors), fmt.Sprint(s.SlowConsumers))
		}
		phases.row(cells...)
	}
	spreads := newTable(to)
	spreads.row("", "MIN", "MEDIAN", "MAX")
	for _, s := range []struct {
		name string
		of   *spread
	}{
		{"seconds until synced", r.Sync}, {"messages until synced", r.Messages},
		{"bytes until synced", r.Bytes}, {"messages at rest", r.Resting}, {"seconds until removed", r.Removal},
	} {
		if s.of != nil {
			spreads.row(s.name, fmt.Sprintf("%.10g", s.of.Min), fmt.Sprintf("%.10g", s.of.Median), fmt.Sprintf("%.10g", s.of.Max))
		}
	}
	newline := func() error { _, err := io.WriteString(to, "\n"); return err }
	if err := errors.Join(phases.Flush(), newline(), spreads.Flush(), newline()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(to, "missing entries: %d\nfalse removals: %d\nlost leases: %d\n",
		r.Missing, r.FalseRemovals, r.LostLeases)
	if err != nil {
		return err
	}
	for _, message := range slices.Sorted(maps.Keys(r.Warnings)) {
		if _, err := fmt.Fprintf(to, "warnings %q: %d\n", message, r.Warnings[message]); err != nil {
			return err
		}
	}
	return nil
}

// warningCounter counts the warnings and errors that libraries log, such as lost
// leases, by message.
type warningCounter struct {
	mu sync.Mutex
	by map[string]int
}

func newWarningCounter() *warningCounter { return &warningCounter{by: map[string]int{}} }

func (c *warningCounter) counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.by)
}

// warningHandler counts the warnings that are logged while active returns true.
type warningHandler struct {
	*warningCounter
	active func() bool
}

// Enabled implements slog.Handler.
func (h warningHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.active()
}

// Handle implements slog.Handler.
func (h warningHandler) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.by[r.Message]++
	return nil
}

// WithAttrs implements slog.Handler.
func (h warningHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements slog.Handler.
func (h warningHandler) WithGroup(string) slog.Handler { return h }
