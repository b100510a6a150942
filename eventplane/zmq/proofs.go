//go:build cgo && !nozmq

package zmq

import (
	"slices"
	"time"
)

// A peer that is certain to answer is requested to answer again after minProofWait, then with pauses
// that double up to maxProofWait: libzmq drops the answer if there is no room for it.
const (
	minProofWait = time.Second
	maxProofWait = 30 * time.Second
)

// opened is called after a handshake. The peer has yet to prove that it has the
// subscription.
func (c *connections) opened(k *connection, now time.Time) {
	c.revoke(k)
	if c.stale && c.renew != nil {
		c.renew()
	}
	c.stale = false
	k.assumeAt = time.Time{}
	if c.assumeAfter > 0 {
		k.patience = c.assumeAfter + 4*now.Sub(k.openedAt)
		if k.proves {
			k.patience = max(k.patience, minProofWait)
		}
		k.assumeAt = now.Add(k.patience)
	}
	c.unproved = append(c.unproved, k)
}

// closed is called after the end of a connection.
func (c *connections) closed(k *connection) {
	c.stale = c.stale || k.assumed || slices.Contains(c.unproved, k)
	c.revoke(k)
	if c.byDescriptor[k.descriptor] == k {
		delete(c.byDescriptor, k.descriptor)
	}
}

// revoke undoes opened and setProved.
func (c *connections) revoke(k *connection) {
	c.unproved = without(c.unproved, k)
	if k.proved && k.closeAt.IsZero() {
		c.pending++
	}
	k.proved, k.assumed = false, false
}

func (c *connections) prove(fd int) {
	if k := c.byDescriptor[fd]; k != nil && slices.Contains(c.unproved, k) {
		c.setProved(k)
	}
}

// setProved takes the proof of a connection, which is in c.unproved, as given.
func (c *connections) setProved(k *connection) {
	c.unproved = without(c.unproved, k)
	k.proved = true
	if k.closeAt.IsZero() {
		c.pending--
	}
}

func (c *connections) settled() bool { return c.pending == 0 }
