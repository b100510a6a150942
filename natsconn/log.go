package natsconn

import (
	"errors"
	"log/slog"

	"github.com/nats-io/nats.go"
)

// watcher logs what happens to one connection. nats.go calls its handlers one
// at a time, so it needs no lock.
type watcher struct {
	log  *slog.Logger
	last string // the last error logged since the connection changed its state
}

func newWatcher(log *slog.Logger) *watcher {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &watcher{log: log}
}

func (w *watcher) options() []nats.Option {
	return []nats.Option{
		nats.DisconnectErrHandler(w.disconnected),
		nats.ReconnectHandler(w.reconnected),
		nats.ErrorHandler(w.failed),
	}
}

func (w *watcher) disconnected(nc *nats.Conn, err error) {
	w.last = ""
	if nc.IsClosed() { // by its owner
		w.log.Debug("NATS connection closed")
		return
	}
	w.log.Warn("NATS connection lost, reconnecting", "error", err)
}

func (w *watcher) reconnected(nc *nats.Conn) {
	w.last = ""
	w.log.Info("NATS connection is back", "server", nc.ConnectedUrlRedacted())
}

// failed hears of the same refusal with every attempt to reconnect, but of a
// slow consumer only when it has become one.
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
	w.log.Warn("NATS error", args...)
}
