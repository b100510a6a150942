package requestplane

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"
)

// answer is a call at its server.
type answer struct {
	server   *Server
	handler  Handler
	request  Request
	ticket   ticket
	reserved int64 // bytes

	ctx     context.Context
	stop    context.CancelCauseFunc
	stream  *stream
	w       *bufio.Writer
	started bool  // the prologue is written
	err     error // of the first write that failed
}

// run answers the request.
func (a *answer) run() {
	defer a.release()
	s := a.server
	ctx, cancel := context.WithCancelCause(s.life)
	defer cancel(nil)
	stream, err := s.callHome(ctx, a.request.From, a.ticket)
	if err != nil {
		s.stats.callHome.Add(1)
		s.options.Logger.Debug("requestplane: call home failed", "address", a.ticket.home, "error", err)
		return
	}
	a.ctx, a.stop, a.stream, a.w = ctx, cancel, stream, bufio.NewWriterSize(stream, bufferSize)
	gone := make(chan struct{})
	s.running.Go(func() {
		defer close(gone)
		watch(stream, cancel)
	})
	a.handle()
	a.release()
	a.leave(gone)
	_ = stream.Close()
	<-gone
}

// watch reads what the client sends, up to its end. Anything ends the call: "stop",
// "kill", or the end of the connection.
func watch(s *stream, cancel context.CancelCauseFunc) {
	const most = 64 << 10
	buf := make([]byte, 512)
	for total := 0; total < most; {
		n, err := s.Conn.Read(buf) // without a deadline; run closes the connection
		cancel(ErrStopped)
		if err != nil {
			return
		}
		total += n
	}
}

// handle waits for a slot, runs the handler, and writes the end of the answer.
func (a *answer) handle() {
	s := a.server
	hello, err := json.Marshal(handshake{a.ticket.subject, streamResponse})
	if err == nil { // always
		a.write(control(hello))
		a.flush()
	}
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > s.maxWaiting() {
		s.stats.overloaded.Add(1)
		a.fail(errOverloaded)
		return
	}
	select {
	case s.slots <- struct{}{}:
	case <-a.ctx.Done():
		s.stats.stopped.Add(1)
		return
	}
	err = a.handler(a.ctx, &a.request, a.send)
	<-s.slots
	switch {
	case a.ctx.Err() != nil: // its error is as good as any
		s.stats.stopped.Add(1)
	case a.err != nil:
		s.stats.write.Add(1)
		s.options.Logger.Debug("requestplane: answer failed", "peer", a.ticket.home, "path", a.request.Path, "error", a.err)
	case err != nil:
		s.stats.failed.Add(1)
		s.options.Logger.Debug("requestplane: handler failed", "peer", a.ticket.home, "path", a.request.Path, "error", err)
		a.fail(err)
	default:
		s.stats.complete.Add(1)
		a.start()
		final := finals[a.request.Codec]
		a.write(appendHead(nil, 0, len(final)))
		a.write([]byte(final))
		a.write(control([]byte(sentinel)))
		a.flush()
	}
}

// send writes an item.
func (a *answer) send(item []byte) error {
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	if len(item) == 0 {
		return errors.New("requestplane: send: empty item: want one value in the codec of the request")
	}
	a.start()
	prefix, suffix := prefixes[a.request.Codec], suffixes[a.request.Codec]
	a.write(appendHead(nil, 0, len(prefix)+len(item)+len(suffix)))
	a.write([]byte(prefix))
	a.write(item)
	a.write([]byte(suffix))
	a.flush()
	if a.err != nil && a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	return a.err
}

// start writes the prologue, once.
func (a *answer) start() {
	if !a.started {
		a.started = true
		a.write(control([]byte(`{"error":null}`)))
	}
}

// fail answers with an error. An answer that has begun ends here.
func (a *answer) fail(err error) {
	if a.started {
		a.stop(err)
		return
	}
	text := excerpt(err.Error())
	header, err := json.Marshal(prologue{&text})
	if err != nil {
		return // a string always has a form
	}
	a.write(control(header))
	a.write(control([]byte(sentinel)))
	a.flush()
}

// write writes to the buffer, and keeps the first error.
func (a *answer) write(p []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(p)
	}
}

// flush is like write. A client that does not take the answer in time is a
// failure; one that has closed the connection has stopped the call.
func (a *answer) flush() {
	if a.err == nil {
		a.err = a.w.Flush()
	}
	if a.err != nil && !errors.Is(a.err, os.ErrDeadlineExceeded) {
		a.stop(ErrStopped)
	}
}

// leave waits, for a bounded time, until the client closes the connection: a
// client that has sent something may lose the end of an answer in a reset. It does
// not wait after a stop, when the client expects the end, nor in a shutdown.
func (a *answer) leave(gone <-chan struct{}) {
	if a.err != nil {
		a.stream.discard()
		return
	}
	if a.ctx.Err() != nil {
		a.stream.finish()
		return
	}
	s := a.server
	replaced := make(chan struct{})
	defer s.leaving.add(a.request.From.Addr(), func() { close(replaced) })()
	timer := time.NewTimer(s.linger)
	defer timer.Stop()
	select {
	case <-gone:
	case <-timer.C:
	case <-replaced:
	case <-s.life.Done():
	}
}
