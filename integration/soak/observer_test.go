package soak

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// observer follows one watch and checks each of its events.
type observer struct {
	name    string
	history *history
	client  *discovery.Client
	query   discovery.Query

	mu     sync.Mutex
	state  map[discovery.ID]string
	synced bool
	events int
}

func (o *observer) run(ctx context.Context) {
	for ev, err := range o.client.WatchWithOptions(ctx, o.query, discovery.WatchOptions{Updates: true}) {
		if err != nil {
			if !errors.Is(err, context.Canceled) && !errors.Is(err, discovery.ErrClosed) {
				o.history.violation("%s: the watch ended: %v", o.name, err)
			}
			return
		}
		o.take(ev)
	}
}

func (o *observer) take(ev discovery.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events++
	if ev.Type == discovery.Synced {
		if o.synced {
			o.history.violation("%s: synced twice", o.name)
		}
		o.synced = true
		return
	}
	id, value := ev.Instance.ID(), text(ev.Instance)
	former, present := o.state[id]
	h := o.history.find(ev.Instance)
	if h == nil {
		o.history.violation("%s: %v with the value %s, which was never registered", o.name, ev, value)
	}
	switch ev.Type {
	case discovery.Added:
		if present {
			o.history.violation("%s: %v twice: first %s, then %s", o.name, ev, former, value)
		}
		o.state[id] = value
	case discovery.Updated:
		if previous := text(ev.Previous); !present || previous != former || value == former {
			o.history.violation("%s: %v from %s to %s, after %q", o.name, ev, previous, value, former)
		}
		o.state[id] = value
	case discovery.Removed:
		if !present || value != former {
			o.history.violation("%s: %v with the value %s, after %q", o.name, ev, value, former)
		}
		if h != nil && !o.history.mayBeRemoved(h) {
			o.history.violation("%s: %v, but its owner %s is alive: a false removal of %s", o.name, ev, h.owner.name, value)
		}
		delete(o.state, id)
	}
}

func text(in discovery.Instance) string {
	number, version, err := valueOf(in)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d/%d", number, version)
}

// difference describes how the state differs from what is registered, or is empty.
func (o *observer) difference(living map[discovery.ID]string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return difference(o.name, o.query, o.state, living)
}

func difference(name string, q discovery.Query, have, living map[discovery.ID]string) string {
	var out []string
	for id, value := range living {
		switch got, ok := have[id]; {
		case !q.Match(id) || got == value:
		case ok:
			out = append(out, fmt.Sprintf("%s is %s and not %s (a missed change)", id.Path(), got, value))
		default:
			out = append(out, fmt.Sprintf("%s %s is missing", id.Path(), value))
		}
	}
	for id, value := range have {
		if _, ok := living[id]; !ok {
			out = append(out, fmt.Sprintf("%s %s is a ghost", id.Path(), value))
		}
	}
	if len(out) == 0 {
		return ""
	}
	return fmt.Sprintf("%s differs in %d: %s", name, len(out), strings.Join(out[:min(len(out), 5)], "; "))
}

// list compares a one-shot list.
func (o *observer) list(ctx context.Context, living map[discovery.ID]string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	got, err := o.client.List(ctx, o.query)
	if err != nil {
		return fmt.Sprintf("%s: list: %v", o.name, err)
	}
	have := map[discovery.ID]string{}
	for _, in := range got {
		have[in.ID()] = text(in)
	}
	return difference("a list of "+o.name, o.query, have, living)
}
