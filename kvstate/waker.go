package kvstate

import (
	"context"
	"sync"
)

// waker has a context that ends when the follower has something to do.
type waker struct {
	mu     sync.Mutex
	ctx    context.Context
	cancel context.CancelFunc
}

func (w *waker) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancel()
}

// renew replaces a context that has ended.
func (w *waker) renew(parent context.Context) context.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		w.cancel()
	}
	w.ctx, w.cancel = context.WithCancel(parent)
	return w.ctx
}
