//go:build cgo && !nozmq

package zmq

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

// dealer is a DEALER that is connected to one publisher, in a goroutine of its own.
// It ends without calls, or when one fails: the next one opens another, which
// receives nothing of what is still on its way to this one.
type dealer struct {
	client  *replayClient
	address string

	// The lock of the client protects the following.
	incoming []*replayCall // to be requested
	pending  int           // calls of Replay that have not returned
	ending   bool
	waiter   *rawzmq.Waiter // nil until it is open

	// Of the goroutine.
	socket   *rawzmq.Socket
	receiver *rawzmq.Receiver
	calls    []*replayCall // requested, in order
	progress time.Time     // when something arrived, or the first of calls was requested
	failure  error         // of the protocol
}

// end makes the goroutine end. The caller holds the lock of the client.
func (d *dealer) end() {
	d.ending = true
	d.wake()
}

// wake makes the goroutine call step. The caller holds the lock of the client.
func (d *dealer) wake() {
	if d.waiter != nil {
		_ = d.waiter.SetDeadline(time.Now()) // it fails only when it is closed
	}
}

// abandon is called when Replay returns.
func (d *dealer) abandon(call *replayCall) {
	c := d.client
	c.mu.Lock()
	defer c.mu.Unlock()
	call.queue.Close(driver.ErrClosed) // releases the events
	call.abandoned = true
	if d.pending--; d.pending == 0 {
		d.wake() // it ends unless all has been answered
		c.broadcast()
	}
}

func (d *dealer) run() {
	defer d.close()
	if d.failure = d.open(); d.failure != nil {
		return
	}
	for !d.ended() {
		_ = d.waiter.Wait(d.step) // after a deadline it has not called step
		d.step()
	}
}

func (d *dealer) ended() bool {
	d.client.mu.Lock()
	defer d.client.mu.Unlock()
	return d.ending
}

// open opens what close closes.
func (d *dealer) open() (err error) {
	ipv6 := 0
	if needsIPv6(d.address, net.DefaultResolver.LookupNetIP) {
		ipv6 = 1
	}
	zc := d.client.zc
	zc.mu.Lock()
	d.socket, err = zc.socket(rawzmq.DEALER, rawzmq.Options{ReceiveHWM: rawzmq.ReceiveHWM, MaxFrame: zc.opts.MaxMessage})
	zc.mu.Unlock()
	if err != nil {
		return err
	}
	if err := errors.Join(d.socket.Set(rawzmq.IPv6, ipv6), d.socket.Connect(d.address)); err != nil {
		return err
	}
	if d.receiver, err = d.socket.NewReceiver(); err != nil {
		return err
	}
	w, err := d.socket.NewWaiter()
	if err != nil {
		return err
	}
	d.progress = time.Now()
	d.client.mu.Lock()
	d.waiter = w
	d.client.mu.Unlock()
	return nil
}

// close fails the calls that have not been answered.
func (d *dealer) close() {
	c := d.client
	c.mu.Lock()
	defer c.mu.Unlock()
	d.ending = true
	if d.failure == nil {
		d.failure = driver.ErrClosed
	}
	for _, call := range append(d.calls, d.incoming...) {
		call.fail(d.failure)
	}
	delete(c.dealers, d.address)
	c.broadcast()
	if d.waiter != nil {
		_ = d.waiter.Close()
	}
	if d.receiver != nil {
		d.receiver.Close()
	}
	if d.socket != nil {
		_ = d.socket.Close() // it fails only for a socket that is not open
	}
}

// step sends the requests that are new, and then reads, since sending may consume
// the signal that something has arrived. It reports whether it must be called again
// without a signal.
func (d *dealer) step() (again bool) {
	c := d.client
	c.mu.Lock()
	incoming := d.incoming
	d.incoming = nil
	c.mu.Unlock()
	for _, call := range incoming {
		d.request(call)
	}
	if d.failure == nil {
		again = d.receiver.Each(d.handle)
	}
	deadline := d.progress.Add(replayIdle)

	c.mu.Lock()
	defer c.mu.Unlock()
	abandoned := len(d.calls) > 0 && !slices.ContainsFunc(d.calls, func(call *replayCall) bool { return !call.abandoned })
	expired := !again && !time.Now().Before(deadline)
	if expired && len(d.calls) > 0 && d.failure == nil {
		d.failure = fmt.Errorf("no answer for %v: want a publisher that serves replay", replayIdle)
	}
	if len(d.incoming) == 0 && (d.failure != nil || expired || abandoned) {
		d.ending = true
	}
	if again || d.ending || len(d.incoming) > 0 {
		return true
	}
	_ = d.waiter.SetDeadline(deadline) // it fails only when it is closed
	return false
}

func (d *dealer) request(call *replayCall) {
	if len(d.calls) == 0 {
		d.progress = time.Now()
	}
	d.calls = append(d.calls, call)
	first := binary.BigEndian.AppendUint64(nil, call.request.First)
	last := binary.BigEndian.AppendUint64(nil, call.request.Last)
	for i, frame := range [][]byte{nil, first, last} {
		if err := d.socket.SendFrame(frame, i < 2); err != nil {
			d.failure = err
			return
		}
	}
}

// handle handles a message: an event of the oldest call, or the end of its answer.
func (d *dealer) handle(m *rawzmq.Message) {
	if d.failure != nil {
		return
	}
	d.progress = time.Now()
	it, reason := decode(m)
	switch {
	case reason != "":
		d.failure = errors.New("malformed answer: " + reason)
	case len(m.Frames[0]) != 0:
		d.failure = fmt.Errorf("malformed answer: first frame of %d bytes: want none", len(m.Frames[0]))
	case it.sequence == driver.NoSequence:
		d.handleEnd(it)
	default:
		d.handleEvent(it)
	}
}

// handleEvent passes on an event. A request that was lost with the connection has no
// answer, while a later one may have.
func (d *dealer) handleEvent(it item) {
	for i, call := range d.calls {
		if it.sequence >= call.next && it.sequence <= call.request.Last && call.count < driver.MaxReplay {
			d.forget(i)
			call.receive(it)
			return
		}
	}
	d.failure = fmt.Errorf("sequence %d: want one that was requested", it.sequence)
}

func (d *dealer) handleEnd(it item) {
	if len(it.body) != replayEndSize {
		d.failure = fmt.Errorf("end of %d bytes: want %d", len(it.body), replayEndSize)
		return
	}
	first, last, count := binary.BigEndian.Uint64(it.body), binary.BigEndian.Uint64(it.body[8:]), binary.BigEndian.Uint64(it.body[16:])
	i := slices.IndexFunc(d.calls, func(call *replayCall) bool { return call.request.First == first && call.request.Last == last })
	if i < 0 {
		d.failure = fmt.Errorf("end of the events from %d to %d: want one that was requested", first, last)
		return
	}
	d.forget(i)
	call := d.calls[0]
	d.calls = slices.Delete(d.calls, 0, 1)
	switch {
	case it.publisherID != call.request.PublisherID:
		call.fail(driver.ErrNoReplay)
	case count != call.count:
		call.fail(fmt.Errorf("%d events: want the %d that were sent", call.count, count))
	default:
		call.fail(io.EOF)
	}
}

// forget fails the first n calls.
func (d *dealer) forget(n int) {
	for _, call := range d.calls[:n] {
		call.fail(errors.New("the answer was lost: want an answer to each request"))
	}
	d.calls = slices.Delete(d.calls, 0, n)
}

// receive queues a copy of an event.
func (call *replayCall) receive(it item) {
	call.next = it.sequence + 1
	call.count++
	switch {
	case call.failed:
	case it.publisherID != call.request.PublisherID:
		call.fail(driver.ErrNoReplay)
	case !call.queue.Admit(len(it.body)):
		call.fail(fmt.Errorf("%d bytes wait to be delivered: want a caller that is faster", maxReplayBytes))
	default:
		it.body = copyOf(it.body)
		call.queue.Push(it, len(it.body))
	}
}

// fail ends the call with the error, or io.EOF, that its events are followed by. The
// first call of fail counts.
func (call *replayCall) fail(err error) {
	if !call.failed {
		call.failed = true
		call.queue.End(err)
	}
}
