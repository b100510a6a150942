package natsconn

import (
	"errors"
	"log/slog"

	"github.com/nats-io/nats.go"
)

// watcher logs the changes and asynchronous errors of one connection. nats.go
// calls the handlers one at a time, so it needs no lock.
type watcher struct {
	log  *slog.Logger
	last string // last error logged in the present state of the connection
}

func newWatcher(log *slog.Logger) *watcher {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &watcher{log: log}
}

// options returns the handlers as options of a connection.
func (w *watcher) options() []nats.Option {
	return []nats.Option{
		nats.DisconnectErrHandler(w.disconnected),
		nats.ReconnectHandler(w.reconnected),
		nats.ErrorHandler(w.failed),
	}
}

// disconnected is called when the connection is lost, and when it is closed.
func (w *watcher) disconnected(nc *nats.Conn, err error) {
	w.last = ""
	if nc.IsClosed() { // by its owner
		w.log.Debug("natsconn: connection closed")
		return
	}
	w.log.Warn("natsconn: connection lost, reconnecting", "error", err)
}

// reconnected is called after each loss, once the connection is authenticated. The
// end of an outage has the level of its beginning, so that a log of warnings has
// both.
func (w *watcher) reconnected(nc *nats.Conn) {
	w.last = ""
	w.log.Warn("natsconn: reconnected", "server", nc.ConnectedUrlRedacted())
}

// failed logs an error unless it repeats the last one: a rejection is reported
// again with each attempt to reconnect. A slow consumer is always logged, since
// it is reported only once, when messages begin to be dropped.
func (w *watcher) failed(_ *nats.Conn, sub *nats.Subscription, err error) {
	if !errors.Is(err, nats.ErrSlowConsumer) {
		if err.Error() == w.last {
			return
		}
		w.last = err.Error()
	}
	args := []any{"error", err}
	if sub != nil {
		args = append(args, "subject", sub.Subject)
	}
	w.log.Warn("natsconn: asynchronous error", args...)
}
