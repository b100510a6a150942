package etcd

import (
	"context"
	"log/slog"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// opsPerTxn is below the limit that etcd has by default, 128 with those of
	// nested transactions.
	opsPerTxn = 64
	// bytesPerTxn is below the limit that etcd has by default, 1.5 MiB. A
	// greater entry gets a transaction of its own.
	bytesPerTxn = 512 << 10
	// txnsAtOnce bounds the transactions under way.
	txnsAtOnce = 16
)

// txnResponse is the response of a nested transaction.
type txnResponse = *etcdserverpb.TxnResponse

// eachBatch calls do with all batches, several at once, until one fails, and
// returns its error.
func eachBatch[T any](ctx context.Context, batches [][]T, do func(context.Context, []T) error) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed error
		next   = make(chan []T)
	)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range min(txnsAtOnce, len(batches)) {
		wg.Go(func() {
			for batch := range next {
				if err := do(ctx, batch); err != nil {
					mu.Lock()
					if failed == nil {
						failed = err
					}
					mu.Unlock()
				}
			}
		})
	}
	for _, batch := range batches {
		mu.Lock()
		stop := failed != nil && !isRefusal(failed)
		mu.Unlock()
		if stop {
			break
		}
		next <- batch
	}
	close(next)
	wg.Wait()
	return failed
}

// reporter is used to log the first failure and the first success after it.
type reporter struct{ failing bool }

// changed reports whether an error is the first one, or nil the first after one.
func (r *reporter) changed(err error) bool {
	was := r.failing
	r.failing = err != nil
	return r.failing != was
}

// mended counts the entries that were lost and written again, until it is logged:
// one warning for all of them. It is safe for concurrent use.
type mended struct {
	mu      sync.Mutex
	count   int
	example string // the key of one of them
}

func (m *mended) add(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count, m.example = m.count+1, key
}

func (m *mended) report(log *slog.Logger) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.count > 0 {
		log.Warn("etcd: registrations were lost and have been written again", "count", m.count, "example", m.example)
	}
	m.count = 0
}
