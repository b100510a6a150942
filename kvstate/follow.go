package kvstate

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/requestplane"
)

// FollowOptions are the options of [Follow]. The zero value is ready to use.
type FollowOptions struct {
	// RankBytes bounds the live events that are held for a rank while its worker is
	// queried, and TotalBytes those of all ranks; 0 means 8 MiB and 64 MiB. Events that
	// do not fit are requested from the worker again.
	RankBytes, TotalBytes int

	// Check is the longest time after which a worker that publishes nothing is queried
	// whether an event was lost; 0 means 1 minute, and a negative value never. The
	// first checks after an event come sooner.
	Check time.Duration

	// Subscriber are the options of the subscription. Events that its queue drops
	// because the loop is slow are requested from their workers again.
	Subscriber eventplane.SubscriberOptions

	Logger *slog.Logger // nil discards
}

func (o FollowOptions) rankBytes() int {
	if o.RankBytes > 0 {
		return o.RankBytes
	}
	return 8 << 20
}

func (o FollowOptions) totalBytes() int {
	if o.TotalBytes > 0 {
		return o.TotalBytes
	}
	return 64 << 20
}

func (o FollowOptions) check() time.Duration {
	switch {
	case o.Check < 0:
		return 0
	case o.Check == 0:
		return time.Minute
	}
	return max(o.Check, firstCheck)
}

func (o FollowOptions) logger() *slog.Logger {
	if o.Logger != nil {
		return o.Logger
	}
	return slog.New(slog.DiscardHandler)
}

// Clients are the clients that [Follow] uses. They stay open.
type Clients struct {
	Discovery *discovery.Client
	Events    *eventplane.Client
	Requests  *requestplane.Client
}

// Follow yields the KV-cache state of the workers of an endpoint, and its changes,
// for as long as the loop runs. Its last element is the error that ended it, which
// may be that of ctx.
//
// Each rank of a worker begins with TrustChanged, to Recovering as a rule, and ends
// with Gone. Its state begins with a Reset. If events were lost for which the worker
// has no record any more, another Reset follows.
//
// The ranks are those whose event sources are registered at the scope. Workers of
// Dynamo up to 1.3 are followed at the scope of their component, with the endpoints
// for queries that they register there.
//
// The loop runs in one goroutine, and the updates of all ranks wait while its body
// does.
func Follow(ctx context.Context, c Clients, scope discovery.Scope, o FollowOptions) iter.Seq2[Update, error] {
	return func(yield func(Update, error) bool) {
		if err := follow(ctx, c, scope, o, yield); err != nil {
			yield(Update{}, err)
		}
	}
}

// follow returns nil if the loop was left.
func follow(ctx context.Context, c Clients, scope discovery.Scope, o FollowOptions, yield func(Update, error) bool) error {
	if scope.Component == "" {
		return fmt.Errorf("kvstate: follow %s: want an endpoint, or for Dynamo up to 1.3 a component", scope)
	}
	sub, err := c.Events.SubscriberWithOptions(ctx, scope, topicKVEvents, o.Subscriber)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Shutdown(context.WithoutCancel(ctx)) }()
	f := newFollower(sub, queryOver(c.Requests), o, yield)
	return f.run(ctx, func(ctx context.Context) iter.Seq2[discovery.Event, error] {
		return c.Discovery.Watch(ctx, sourcesOf(scope))
	})
}
