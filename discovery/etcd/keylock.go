package etcd

import (
	"context"
	"sync"
)

// keyLocks serialize the operations of a store on one key, so that the last of
// several registrations wins, and the keep-alive does not write an entry that is
// being changed. A lock is held during requests, and waiting for it ends with a
// context.
type keyLocks struct {
	mu   sync.Mutex
	keys map[string]*keyLock
}

type keyLock struct {
	held  chan struct{} // of capacity one
	users int           // that hold it or wait for it; guarded by keyLocks.mu
}

// lock waits for the lock of a key.
func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	l := k.use(key)
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; k.release(key) }, nil
	case <-ctx.Done():
		k.release(key)
		return nil, ctx.Err()
	}
}

// tryLock returns nil if the lock is held.
func (k *keyLocks) tryLock(key string) (unlock func()) {
	l := k.use(key)
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; k.release(key) }
	default:
		k.release(key)
		return nil
	}
}

func (k *keyLocks) use(key string) *keyLock {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.keys[key]
	if l == nil {
		l = &keyLock{held: make(chan struct{}, 1)}
		k.keys[key] = l
	}
	l.users++
	return l
}

func (k *keyLocks) release(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.keys[key]
	if l.users--; l.users == 0 {
		delete(k.keys, key)
	}
}
