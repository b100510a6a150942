package file

import (
	"context"
	"errors"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/dynplane/dynplane/discovery"
)

// watcher follows a directory. The kernel's events only name the files to
// inspect, and the changes are what the inspection finds, so an event that is
// duplicated, delayed or lost does no harm. In addition all files are inspected
// twice a second: this finds expired files and those whose event was lost (some
// file systems send none), and proves that the directory is reachable.
//
// An expired file counts as removed, whether or not any process has removed it,
// and as present again once its owner touches it.
type watcher struct {
	store  *Store
	query  discovery.Query
	dir    string
	seed   maphash.Seed
	ticker *time.Ticker

	begun    bool              // the first listing has been delivered or is under way
	absent   bool              // there is no directory, and an empty listing has been queued
	followed fs.FileInfo       // the directory that is followed; nil before a listing
	events   *fsnotify.Watcher // nil if the kernel sends no events

	files      map[string]record    // by name
	filesOf    map[discovery.ID]int // an id can have a file in the form of either generation
	toInspect  []string             // names
	afterwards discovery.Change     // queued when toInspect is empty
	queued     []discovery.Change   // delivered before anything else
}

// scanInterval is the time between two inspections of all files.
const scanInterval = 500 * time.Millisecond

// Watch implements discovery.Store. A missing directory is treated as empty. A
// directory that stays locked for a second is an error of the first listing.
func (s *Store) Watch(_ context.Context, q discovery.Query) (discovery.Watcher, error) {
	dir := s.dir(q.Kind)
	if err := s.start(""); err != nil {
		return nil, err
	}
	return &watcher{
		store: s, query: q, dir: dir,
		seed:   maphash.MakeSeed(),
		ticker: time.NewTicker(min(scanInterval, s.opt.TTL/4)),
	}, nil
}

// Next implements discovery.Watcher.
func (w *watcher) Next(ctx context.Context) (discovery.Change, error) {
	for {
		if err := ctx.Err(); err != nil {
			return discovery.Change{}, err
		}
		if w.store.isClosed() {
			return discovery.Change{}, discovery.ErrClosed
		}
		if len(w.queued) > 0 {
			ch := w.queued[0]
			w.queued = w.queued[1:]
			ch.More = len(w.queued) > 0 || len(w.toInspect) > 0 // a scan finds them in no order
			return ch, nil
		}
		if err := w.step(ctx); err != nil && ctx.Err() == nil {
			if !w.begun {
				return discovery.Change{}, err
			}
			w.store.log.Debug("file: listing the directory failed, retrying", "directory", w.dir, "error", err)
			w.await(ctx)
		}
	}
}

// step performs one action that may queue changes.
func (w *watcher) step(ctx context.Context) error {
	switch {
	case len(w.toInspect) > 0:
		name := w.toInspect[0]
		w.toInspect = w.toInspect[1:]
		w.inspect(name, true)
	case w.afterwards.Op != 0:
		w.queue(w.afterwards)
		w.afterwards = discovery.Change{}
	case w.followed == nil:
		return w.list(ctx)
	default:
		w.await(ctx)
	}
	return nil
}

// await blocks until there is a file to inspect.
func (w *watcher) await(ctx context.Context) {
	var events chan fsnotify.Event
	var lost chan error
	if w.events != nil {
		events, lost = w.events.Events, w.events.Errors
	}
	select {
	case ev := <-events:
		switch {
		case ev.Op == fsnotify.Chmod: // a heartbeat
		case ev.Name == w.dir:
			w.unfollow()
		default:
			w.store.clock.observe()
			w.inspect(filepath.Base(ev.Name), false)
		}
	case err := <-lost: // the kernel's queue overflowed
		w.store.log.Debug("file: events of the directory were lost", "directory", w.dir, "error", err)
		w.scan()
	case <-w.ticker.C:
		w.scan()
	case <-w.store.closed:
	case <-ctx.Done():
	}
}

// list begins a full listing.
func (w *watcher) list(ctx context.Context) error {
	start := w.store.clock.observe()
	info, err := os.Stat(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		w.waitForDirectory(ctx, start)
		return nil
	}
	if err != nil {
		return err
	}
	w.subscribe() // before the listing, so that no change is lost between the two
	unlock, err := lock(ctx, w.dir)
	if err != nil {
		w.unfollow()
		return ignoreNotExist(err)
	}
	entries, err := os.ReadDir(w.dir)
	unlock()
	if err != nil {
		w.unfollow()
		return ignoreNotExist(err)
	}
	w.afterwards = discovery.Change{Op: discovery.OpProgress, AliveSince: start}
	if !w.absent { // otherwise an empty listing has been delivered already
		w.reset()
		w.afterwards = discovery.Change{Op: discovery.OpSynced}
	}
	w.followed, w.absent = info, false
	w.toInspect = namesOf(entries)
	return nil
}

func namesOf(entries []os.DirEntry) []string {
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// reset begins a listing.
func (w *watcher) reset() {
	w.begun = true
	w.files, w.filesOf = map[string]record{}, map[discovery.ID]int{}
	w.queue(discovery.Change{Op: discovery.OpReset})
}

// waitForDirectory treats a missing directory as an empty one.
func (w *watcher) waitForDirectory(ctx context.Context, start time.Time) {
	if !w.absent {
		w.absent = true
		w.reset()
		w.queue(discovery.Change{Op: discovery.OpSynced})
		return
	}
	select {
	case <-w.ticker.C:
		w.queue(discovery.Change{Op: discovery.OpProgress, AliveSince: start})
	case <-w.store.closed:
	case <-ctx.Done():
	}
}

// subscribe requests events from the kernel. Without them the scans remain.
func (w *watcher) subscribe() {
	events, err := fsnotify.NewWatcher()
	if err == nil {
		if err = events.Add(w.dir); err == nil {
			w.events = events
			return
		}
		events.Close()
	}
	w.store.warnNoEvents.Do(func() {
		w.store.log.Warn("file: the kernel sends no events for the directory; scanning it twice a second instead (raise fs.inotify.max_user_instances)",
			"directory", w.dir, "error", err)
	})
}

// unfollow ends the following of the directory; the next step lists again.
func (w *watcher) unfollow() {
	if w.events != nil {
		w.events.Close()
	}
	w.followed, w.events, w.toInspect, w.afterwards = nil, nil, nil, discovery.Change{}
}

// scan schedules the inspection of all files, recorded ones that are missing
// included. It needs no lock, since files appear and disappear atomically.
func (w *watcher) scan() {
	start := w.store.clock.observe()
	entries, err := os.ReadDir(w.dir)
	if err != nil || !w.sameDirectory() {
		w.unfollow()
		return
	}
	w.toInspect = namesOf(entries)
	listed := make(map[string]struct{}, len(entries))
	for _, name := range w.toInspect {
		listed[name] = struct{}{}
	}
	for name := range w.files {
		if _, ok := listed[name]; !ok {
			w.toInspect = append(w.toInspect, name)
		}
	}
	w.afterwards = discovery.Change{Op: discovery.OpProgress, AliveSince: start}
}

// sameDirectory reports whether the directory is still the one that is followed.
func (w *watcher) sameDirectory() bool {
	info, err := os.Stat(w.dir)
	return err == nil && os.SameFile(info, w.followed)
}

func (w *watcher) queue(ch discovery.Change) { w.queued = append(w.queued, ch) }

// Close implements discovery.Watcher.
func (w *watcher) Close() error {
	w.ticker.Stop()
	w.unfollow()
	return nil
}
