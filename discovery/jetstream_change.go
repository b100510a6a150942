package discovery

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// change makes a Change of a message of the bucket.
func (w *jetStreamWatcher) change(msg *nats.Msg, meta *nats.MsgMetadata) Change {
	ch := Change{Op: OpPut, Key: strings.TrimPrefix(msg.Subject, w.store.entrySubject(""))}
	id, err := decodeKey(ch.Key)
	if err != nil && isMarker(msg.Header) {
		ch.Op, ch.Cause = OpDelete, CauseUnregistered // junk that was removed, of no id
		return ch
	}
	if err != nil {
		ch.Op, ch.Err = OpInvalid, err
		return ch
	}
	ch.ID = id
	if !isMarker(msg.Header) {
		ch.Value = msg.Data
		if ms, err := strconv.ParseInt(msg.Header.Get(hdrOwnerTTL), 10, 64); err == nil && ms > 0 && ms < maxTTL.Milliseconds() {
			ch.TTL = time.Duration(ms) * time.Millisecond
		}
		return ch
	}
	ch.Op, ch.Cause = OpDelete, cause(msg, meta)
	return ch
}

// isMarker tells what stands for an entry that is gone.
func isMarker(h nats.Header) bool {
	op := h.Get(hdrOperation)
	return op == "PURGE" || op == "DEL" || h.Get(hdrMarker) != ""
}

// maxTTL bounds what a foreign header can make a watcher hold.
const maxTTL = 24 * time.Hour

// lateExpiry is how far behind the deadline a purge in quiet times never is.
// One that is later says that the server could not hear the owner either.
const lateExpiry = 750 * time.Millisecond

// cause tells a lease that ran out by the body of its purge.
func cause(msg *nats.Msg, meta *nats.MsgMetadata) Cause {
	var body leaseBody
	switch {
	case msg.Header.Get(hdrMarker) == "MaxAge":
		return CauseUncertain // nobody's lease; let its owner say
	case len(msg.Data) == 0 || json.Unmarshal(msg.Data, &body) != nil || body.Deadline == 0:
		return CauseUnregistered
	case meta.Timestamp.Sub(time.UnixMilli(body.Deadline)) > lateExpiry:
		return CauseUncertain
	}
	return CauseExpired
}
