package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

var errScriptEnds = errors.New("the script has ended")

// script is a Store whose watches deliver the same changes, each after a wait.
type script struct {
	steps   []scriptStep
	later   []scriptStep                 // of the watches after the first; nil if they are the same
	present func(ids []ID) ([]ID, error) // of a Confirmer; nil if the watches are none
	opened  atomic.Int64
}

type scriptStep struct {
	wait   time.Duration
	change Change
}

func (s *script) Register(context.Context, ID, []byte, RegisterOptions) (Lease, error) {
	return nil, errScriptEnds
}
func (s *script) Get(context.Context, ID) ([]byte, error) { return nil, errScriptEnds }
func (s *script) Shutdown(context.Context) error          { return nil }
func (s *script) Watch(context.Context, Query) (Watcher, error) {
	w := &scriptWatcher{steps: s.steps}
	if s.opened.Add(1) > 1 && s.later != nil {
		w.steps = s.later
	}
	if s.present != nil {
		return confirmingWatcher{w, s.present}, nil
	}
	return w, nil
}

type confirmingWatcher struct {
	*scriptWatcher
	present func(ids []ID) ([]ID, error)
}

func (w confirmingWatcher) Present(_ context.Context, ids []ID) ([]ID, error) { return w.present(ids) }

type scriptWatcher struct{ steps []scriptStep }

func (w *scriptWatcher) Close() error { return nil }
func (w *scriptWatcher) Next(ctx context.Context) (Change, error) {
	if len(w.steps) == 0 {
		return Change{}, errScriptEnds
	}
	step := w.steps[0]
	w.steps = w.steps[1:]
	if err := wait.Sleep(ctx, step.wait); err != nil {
		return Change{}, err
	}
	if step.change.Op == OpProgress && step.change.AliveSince.IsZero() {
		step.change.AliveSince = time.Now()
	}
	return step.change, nil
}

// The steps of a script. The owner's TTL is scriptTTL, and the hold of removals
// scriptHold.
const (
	scriptTTL  = 4 * time.Second
	scriptHold = 6 * time.Second
)

func scriptID(instance uint64) ID {
	return ID{Kind: KindEndpoint, Scope: Scope{"ns", "comp", "ep"}, Instance: instance}
}

func scriptValue(instance uint64, address string) []byte {
	in := Instance{InstanceID: instance, Spec: Endpoint{Scope: Scope{"ns", "comp", "ep"}, Transport: TCP(address)}}
	value, err := json.Marshal(in)
	if err != nil {
		return nil
	}
	return value
}

func play(op Op) scriptStep { return scriptStep{change: Change{Op: op}} }

func put(instance uint64, address string) scriptStep {
	return putRaw(instance, string(scriptValue(instance, address)))
}

func putRaw(instance uint64, value string) scriptStep {
	id := scriptID(instance)
	return scriptStep{change: Change{Op: OpPut, ID: id, Key: id.Path(), Value: []byte(value), TTL: scriptTTL}}
}

func gone(instance uint64, cause Cause) scriptStep {
	return scriptStep{change: Change{Op: OpDelete, ID: scriptID(instance), Cause: cause}}
}

// quiet is a time in which the store delivers nothing but OpProgress, twice a
// second.
func quiet(d time.Duration) []scriptStep {
	const beat = 500 * time.Millisecond
	return slices.Repeat([]scriptStep{{beat, Change{Op: OpProgress}}}, int(d/beat))
}

func after(d time.Duration, s scriptStep) scriptStep {
	s.wait += d
	return s
}

func steps(parts ...any) []scriptStep {
	var out []scriptStep
	for _, part := range parts {
		switch p := part.(type) {
		case scriptStep:
			out = append(out, p)
		case []scriptStep:
			out = append(out, p...)
		}
	}
	return out
}

// listing is a full listing of the given instances.
func listing(instances ...uint64) []scriptStep {
	out := []scriptStep{play(OpReset)}
	for _, instance := range instances {
		out = append(out, put(instance, "a"))
	}
	return append(out, play(OpSynced))
}

// playback returns the events of a watch on a script, each as the time since the
// beginning and its description.
func playback(t *testing.T, client *Client) (events []string) {
	t.Helper()
	begin := time.Now()
	for ev, err := range client.Watch(t.Context(), Query{Kind: KindEndpoint}) {
		if err != nil {
			if !errors.Is(err, errScriptEnds) {
				t.Errorf("the watch ended with %v", err)
			}
			break
		}
		events = append(events, fmt.Sprint(time.Since(begin), " ", describe(ev)))
	}
	return events
}

func describe(ev Event) string {
	endpoint, ok := ev.Instance.Spec.(Endpoint)
	if !ok {
		return ev.Type.String()
	}
	return fmt.Sprintf("%v %x %s", ev.Type, ev.Instance.InstanceID, endpoint.Transport.Address)
}
