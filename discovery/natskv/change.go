package natskv

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/discovery"
)

// change converts a message of the bucket into a Change.
func (w *watcher) change(msg *nats.Msg, meta *nats.MsgMetadata) discovery.Change {
	ch := discovery.Change{Op: discovery.OpPut, Key: strings.TrimPrefix(msg.Subject, w.prefix)}
	id, err := decodeKey(ch.Key)
	if err != nil && isMarker(msg.Header) {
		ch.Op, ch.Cause = discovery.OpDelete, discovery.CauseUnregistered // an invalid key that was removed
		return ch
	}
	if err != nil {
		ch.Op, ch.Err = discovery.OpInvalid, err
		return ch
	}
	ch.ID = id
	if !isMarker(msg.Header) {
		ch.Value, ch.TTL = msg.Data, ownerTTL(msg.Header)
		return ch
	}
	ch.Op, ch.Cause = discovery.OpDelete, cause(msg, meta, w.uncertainUntil, w.store.isClustered())
	return ch
}

// maxTTL bounds how long a header, which any writer can set, makes a watcher
// hold a removal.
const maxTTL = 24 * time.Hour

// ownerTTL returns the TTL in the headers of an entry, or zero if there is none.
func ownerTTL(h nats.Header) time.Duration {
	ms, err := strconv.ParseInt(h.Get(hdrOwnerTTL), 10, 64)
	if err != nil || ms <= 0 || ms >= maxTTL.Milliseconds() {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// isMarker reports whether a message marks an entry as deleted.
func isMarker(h nats.Header) bool {
	op := h.Get(hdrOperation)
	return op == "PURGE" || op == "DEL" || h.Get(jetstream.MarkerReasonHeader) != ""
}

// minLateExpiry is the least delay after its deadline that makes a purge uncertain.
const minLateExpiry = 750 * time.Millisecond

// isLate reports whether a purge is so late that the server may not have received
// the owner's heartbeats either. A server that is only busy delays purges and
// heartbeats alike, and an owner sends several within its TTL. In a cluster, the
// stream may have had no leader for almost the whole TTL.
func isLate(delay time.Duration, body leaseBody, clustered bool) bool {
	if clustered {
		return delay > minLateExpiry
	}
	return delay > max(minLateExpiry, min(time.Duration(body.TTL)*time.Millisecond, maxTTL)/4)
}

// cause returns why an entry was deleted, by the body of its marker.
func cause(msg *nats.Msg, meta *nats.MsgMetadata, uncertainUntil time.Time, clustered bool) discovery.Cause {
	var body leaseBody
	switch {
	case msg.Header.Get(jetstream.MarkerReasonHeader) == "MaxAge":
		return discovery.CauseUncertain // not written under a lease; its owner decides
	case len(msg.Data) == 0 || json.Unmarshal(msg.Data, &body) != nil || body.Deadline == 0:
		return discovery.CauseUnregistered
	case isLate(meta.Timestamp.Sub(time.UnixMilli(body.Deadline)), body, clustered) || meta.Timestamp.Before(uncertainUntil):
		return discovery.CauseUncertain
	}
	return discovery.CauseExpired
}
