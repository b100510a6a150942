package zmq

import "time"

// WithoutAssuming returns options with which a subscriber is ready only when all its
// connections are proved.
func WithoutAssuming(o Options) Options {
	o.assumeAfter = 24 * time.Hour
	return o
}
