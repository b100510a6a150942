package discovery

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// sharedWatches are the watches of a client, by query. The first watch of a query
// reads the store itself. Those that begin while it is open share one feed: a cache
// of the query. The zero value is ready to use.
type sharedWatches struct {
	unfit atomic.Bool // the watchers of the store are no Prompters

	mu      sync.Mutex
	byQuery map[Query]*queryWatches
	closed  bool
	closing sync.WaitGroup // feeds
}

// queryWatches are the open watches of one query.
type queryWatches struct {
	alone int   // watches that read the store themselves
	feed  *feed // nil while there is none
}

// feed is a cache that runs while watches use it, and a moment longer.
type feed struct {
	cache  *Cache
	run    *cacheRun
	opened time.Time
	cancel context.CancelFunc
	err    error // why run has ended

	// Guarded by sharedWatches.mu.
	users int
	idle  *time.Timer // nil while there are users
}

// enter begins a watch of q. It returns the feed to use, or nil if the watch has to
// read the store. The caller must call leave.
func (s *sharedWatches) enter(c *Client, q Query) *feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.byQuery[q]
	if w == nil {
		w = &queryWatches{}
		if s.byQuery == nil {
			s.byQuery = map[Query]*queryWatches{}
		}
		s.byQuery[q] = w
	}
	if w.feed == nil && (w.alone == 0 || s.closed || s.unfit.Load()) {
		w.alone++
		return nil
	}
	if w.feed == nil {
		w.feed = s.open(c, q)
	}
	w.feed.users++
	if w.feed.idle != nil {
		w.feed.idle.Stop() // if that is too late, expire finds a user
		w.feed.idle = nil
	}
	return w.feed
}

// leave ends a watch of q.
func (s *sharedWatches) leave(q Query, f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == nil {
		s.byQuery[q].alone--
		s.tidy(q)
		return
	}
	if f.users--; f.users == 0 && !isClosed(f.run.ended) {
		f.idle = time.AfterFunc(viewLinger, func() { s.expire(f) })
	}
}

func (s *sharedWatches) expire(f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.users == 0 {
		s.detach(f)
		f.cancel()
	}
}

// detach makes later watches open another feed. It requires s.mu, as tidy does.
func (s *sharedWatches) detach(f *feed) {
	q := f.cache.cover
	if w := s.byQuery[q]; w != nil && w.feed == f {
		w.feed = nil
		s.tidy(q)
	}
}

func (s *sharedWatches) tidy(q Query) {
	if w := s.byQuery[q]; w.alone == 0 && w.feed == nil {
		delete(s.byQuery, q)
	}
}

// open starts a feed. It requires s.mu.
func (s *sharedWatches) open(c *Client, q Query) *feed {
	ctx, cancel := context.WithCancel(context.Background())
	f := &feed{cache: NewCache(c, q), run: newCacheRun(), opened: time.Now(), cancel: cancel}
	s.closing.Go(func() {
		defer cancel()
		f.err = f.follow(ctx)
		s.mu.Lock()
		s.detach(f)
		if f.idle != nil {
			f.idle.Stop()
		}
		s.mu.Unlock()
		close(f.run.ended)
	})
	return f
}

func (f *feed) follow(ctx context.Context) error {
	watcher, err := f.cache.client.openStore(ctx, f.cache.cover)
	if err != nil {
		return watchError(ctx, f.cache.cover, err)
	}
	if _, ok := watcher.(Prompter); !ok {
		f.cache.client.closeWatcher(watcher)
		return errUnfit
	}
	return f.cache.follow(ctx, f.run, watcher)
}

// errUnfit ends a feed whose store does not support it.
var errUnfit = errors.New("the watchers of the store are no Prompters")

// close ends all feeds, and waits for that.
func (s *sharedWatches) close() {
	s.mu.Lock()
	s.closed = true
	for _, w := range s.byQuery {
		if w.feed != nil {
			w.feed.cancel()
		}
	}
	s.mu.Unlock()
	s.closing.Wait()
}
