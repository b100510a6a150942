package wait

import (
	"math/rand/v2"
	"time"
)

// Backoff computes the pauses between the attempts at one thing: exponential with
// full jitter, so that the clients of a server that fails do not return at once.
// It is not safe for concurrent use.
type Backoff struct {
	// Min bounds the first pause, and Max all later ones; both must be positive.
	Min, Max time.Duration

	bound time.Duration // of the next pause; zero means Min
}

// Next returns the next pause: a random one between zero and a bound that begins
// at Min and doubles up to Max.
func (b *Backoff) Next() time.Duration {
	bound := min(max(b.bound, b.Min), b.Max)
	b.bound = min(2*bound, b.Max)
	return rand.N(bound) + 1
}

// Reset makes the next pause a first one. It is called after a success.
func (b *Backoff) Reset() { b.bound = 0 }
