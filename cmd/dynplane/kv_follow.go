package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/kvevents"
	"github.com/dynplane/dynplane/kvstate"
	"github.com/dynplane/dynplane/requestplane"
)

// kvSettle bounds the wait of commands that print what workers answer.
const kvSettle = 10 * time.Second

// kvRank identifies a rank of a worker.
type kvRank struct {
	worker uint64
	rank   uint32
}

// kvRankState is what is known of a rank.
type kvRankState struct {
	trust  kvstate.Trust
	reason string
	blocks kvstate.Tree
}

// kvView applies the updates of a follower.
type kvView map[kvRank]*kvRankState

// apply applies an update of a rank, and returns its state and the number of events.
// each, which may be nil, is called with each event.
func (v kvView) apply(u kvstate.Update, each func(*kvevents.Event)) (s *kvRankState, events int) {
	key := kvRank{u.Worker, u.Rank}
	if s = v[key]; s == nil {
		s = &kvRankState{}
		v[key] = s
	}
	s.trust, s.reason = u.Trust, u.Reason
	switch u.Kind {
	case kvstate.Reset:
		s.blocks = kvstate.Tree{}
	case kvstate.Gone:
		s.blocks = kvstate.Tree{}
		delete(v, key)
	}
	if u.Events == nil {
		return s, 0
	}
	for e := range u.Events {
		events++
		s.blocks.Apply(e)
		if each != nil {
			each(e)
		}
	}
	return s, events
}

// settled reports whether no rank is recovering.
func (v kvView) settled() bool {
	for _, s := range v {
		if s.trust == kvstate.Recovering {
			return false
		}
	}
	return true
}

// errSettle ends following when a command has waited for kvSettle.
var errSettle = errors.New("some workers have not answered")

// followKV calls do with the updates of the workers of a scope until it returns
// false. A signal is not an error.
func (a *app) followKV(ctx context.Context, scope discovery.Scope, do func(kvstate.Update) (bool, error)) error {
	options, err := requestplane.ClientOptionsFromEnv(a.env)
	if err != nil {
		return err
	}
	options.Logger = a.logger()
	return a.withPlane(ctx, always, func(plane *eventplane.Client, found *discovery.Client) (err error) {
		client, err := requestplane.NewClient(options)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, client.Close()) }()
		clients := kvstate.Clients{Discovery: found, Events: plane, Requests: client}
		for u, err := range kvstate.Follow(ctx, clients, scope, kvstate.FollowOptions{Logger: a.logger()}) {
			if err != nil {
				return err
			}
			if more, err := do(u); err != nil || !more {
				return err
			}
		}
		return nil
	})
}

// followKVUntilSettled is followKV until no rank is recovering, or kvSettle is over,
// with the error errSettle.
func (a *app) followKVUntilSettled(ctx context.Context, scope discovery.Scope, v kvView, each func(kvstate.Update)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, kvSettle, errSettle)
	defer cancel()
	synced := false
	err := a.followKV(ctx, scope, func(u kvstate.Update) (bool, error) {
		if u.Kind == kvstate.Synced {
			synced = true
		} else {
			each(u)
		}
		return !synced || !v.settled(), nil
	})
	if errors.Is(context.Cause(ctx), errSettle) && errors.Is(err, context.DeadlineExceeded) && synced {
		return fmt.Errorf("%w within %v", errSettle, kvSettle)
	}
	return err
}

// parseKVScope parses the scope of workers: an endpoint, or a component of Dynamo up
// to 1.3.
func parseKVScope(arg string) (discovery.Scope, error) {
	scope, err := discovery.ParseScope(arg)
	if err != nil || scope.Component == "" {
		return scope, usagef("%q: want NS/COMP/EP, or NS/COMP for workers of Dynamo up to 1.3", arg)
	}
	return scope, nil
}

// parseKVWorker parses the place and id of a worker, as paths have them.
func parseKVWorker(arg string) (discovery.Scope, uint64, error) {
	i := strings.LastIndexByte(arg, '/')
	if i > 0 {
		id, err := strconv.ParseUint(arg[i+1:], 16, 64)
		if scope, bad := parseKVScope(arg[:i]); err == nil && bad == nil {
			return scope, id, nil
		}
	}
	return discovery.Scope{}, 0, usagef("%q: want NS/COMP/EP/ID with the id in hex, as kv ls prints it, or NS/COMP/ID for workers of Dynamo up to 1.3", arg)
}
