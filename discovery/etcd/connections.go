package etcd

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/stats"
)

// connections counts the connections of a client that have ended. The server at
// the other end of the next one may be another, or have lost its data. It
// implements stats.Handler.
type connections struct{ ended atomic.Int64 }

func (c *connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c *connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (c *connections) HandleRPC(context.Context, stats.RPCStats)                         {}

// HandleConn implements stats.Handler.
func (c *connections) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnEnd); ok {
		c.ended.Add(1)
	}
}
