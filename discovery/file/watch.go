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
	"github.com/dynplane/dynplane/internal/wait"
)

// watcher follows the directories of its kinds. The kernel's events only name the files to
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
	dirs   []*directory // of the kinds of the query
	seed   maphash.Seed
	ticker *time.Ticker

	begun     bool              // the first listing has been delivered or is under way
	following bool              // a listing has been delivered or is under way, and the directories are followed
	events    *fsnotify.Watcher // nil if the kernel sends no events

	files      map[string]record    // by path
	filesOf    map[discovery.ID]int // an id can have a file in the form of either generation
	toInspect  []string             // paths
	afterwards discovery.Change     // queued when toInspect is empty
	queued     []discovery.Change   // delivered before anything else
}

// directory is the place of a kind.
type directory struct {
	kind discovery.Kind
	path string
	info fs.FileInfo // when it was listed; nil while it does not exist, and counts as empty
}

// scanInterval is the time between two inspections of all files.
const scanInterval = 500 * time.Millisecond

// Watch implements discovery.Store. A missing directory is treated as empty. A
// directory that stays locked for seconds is an error of the first listing.
func (s *Store) Watch(_ context.Context, q discovery.Query) (discovery.Watcher, error) {
	if err := s.start(""); err != nil {
		return nil, err
	}
	w := &watcher{
		store: s, query: q,
		seed:   maphash.MakeSeed(),
		ticker: time.NewTicker(min(scanInterval, s.opt.TTL/4)),
	}
	for _, kind := range q.Kinds() {
		path, err := s.dir(kind)
		if err != nil {
			return nil, err
		}
		w.dirs = append(w.dirs, &directory{kind: kind, path: path})
	}
	return w, nil
}

// Next implements discovery.Watcher.
func (w *watcher) Next(ctx context.Context) (discovery.Change, error) {
	bounded, cancel := wait.Until(ctx, w.store.life)
	defer cancel()
	for {
		if w.store.isClosed() {
			return discovery.Change{}, discovery.ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return discovery.Change{}, err
		}
		if len(w.queued) > 0 {
			ch := w.queued[0]
			w.queued = w.queued[1:]
			return ch, nil
		}
		if err := w.step(bounded); err != nil && bounded.Err() == nil {
			if !w.begun {
				return discovery.Change{}, err
			}
			w.store.log.Debug("file: listing a directory failed, retrying", "root", w.store.opt.Root, "error", err)
			w.await(bounded)
		}
	}
}

// step performs one action that may queue changes.
func (w *watcher) step(ctx context.Context) error {
	switch {
	case len(w.toInspect) > 0:
		path := w.toInspect[0]
		w.toInspect = w.toInspect[1:]
		w.inspect(path, true)
	case w.afterwards.Op != 0:
		w.queue(w.afterwards)
		w.afterwards = discovery.Change{}
	case !w.following:
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
		case w.directory(ev.Name) != nil:
			w.unfollow()
		default:
			w.store.clock.observe()
			w.inspect(ev.Name, false)
		}
	case err := <-lost: // the kernel's queue overflowed
		w.store.log.Debug("file: events of a directory were lost", "root", w.store.opt.Root, "error", err)
		w.scan()
	case <-w.ticker.C:
		if w.following {
			w.scan()
		}
	case <-ctx.Done():
	}
}

// directory returns the directory with a path, or nil.
func (w *watcher) directory(path string) *directory {
	for _, d := range w.dirs {
		if d.path == path {
			return d
		}
	}
	return nil
}

// list begins a full listing.
func (w *watcher) list(ctx context.Context) error {
	w.store.clock.observe()
	w.unfollow()
	var paths []string
	for _, d := range w.dirs {
		found, err := w.open(ctx, d)
		if err != nil {
			w.unfollow()
			return err
		}
		paths = append(paths, found...)
	}
	w.begun, w.following = true, true
	w.files, w.filesOf = map[string]record{}, map[discovery.ID]int{}
	w.queue(discovery.Change{Op: discovery.OpReset})
	w.toInspect, w.afterwards = paths, discovery.Change{Op: discovery.OpSynced}
	return nil
}

// open begins to follow a directory, and returns the files in it. A directory that
// does not exist has none.
func (w *watcher) open(ctx context.Context, d *directory) ([]string, error) {
	info, err := os.Stat(d.path)
	if err != nil {
		return nil, ignoreNotExist(err)
	}
	w.subscribe(d) // before the listing, so that no change is lost between the two
	unlock, err := lock(ctx, d.path, shared)
	if err != nil {
		return nil, ignoreNotExist(err)
	}
	defer unlock()
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, ignoreNotExist(err)
	}
	d.info = info
	return d.paths(entries), nil
}

func (d *directory) paths(entries []os.DirEntry) []string {
	paths := make([]string, len(entries))
	for i, e := range entries {
		paths[i] = filepath.Join(d.path, e.Name())
	}
	return paths
}

// subscribe requests events from the kernel. Without them the scans remain.
func (w *watcher) subscribe(d *directory) {
	var err error
	if w.events == nil {
		w.events, err = fsnotify.NewWatcher()
	}
	if err == nil {
		err = w.events.Add(d.path)
	}
	if err == nil {
		return
	}
	w.store.warnNoEvents.Do(func() {
		w.store.log.Warn("file: the kernel sends no events for the directory; scanning it twice a second instead (raise fs.inotify.max_user_instances)",
			"directory", d.path, "error", err)
	})
}

// unfollow ends the following of the directories; the next step lists again.
func (w *watcher) unfollow() {
	if w.events != nil {
		w.events.Close()
	}
	for _, d := range w.dirs {
		d.info = nil
	}
	w.following, w.events, w.toInspect, w.afterwards = false, nil, nil, discovery.Change{}
}

// scan schedules the inspection of all files, recorded ones that are missing
// included. It needs no lock, since files appear and disappear atomically.
func (w *watcher) scan() {
	start := w.store.clock.observe()
	var paths []string
	for _, d := range w.dirs {
		found, err := w.scanDirectory(d)
		if err != nil {
			w.unfollow()
			return
		}
		paths = append(paths, found...)
	}
	listed := make(map[string]struct{}, len(paths))
	for _, path := range paths {
		listed[path] = struct{}{}
	}
	for path := range w.files {
		if _, ok := listed[path]; !ok {
			paths = append(paths, path)
		}
	}
	w.toInspect, w.afterwards = paths, discovery.Change{Op: discovery.OpProgress, AliveSince: start}
}

// scanDirectory returns the files of a directory. It returns an error if the
// directory that was listed is gone, and begins to follow one that has appeared.
func (w *watcher) scanDirectory(d *directory) ([]string, error) {
	if d.info == nil {
		info, err := os.Stat(d.path)
		if err != nil {
			return nil, ignoreNotExist(err)
		}
		w.subscribe(d)
		d.info = info
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	if !d.isSame() {
		return nil, errReplaced
	}
	return d.paths(entries), nil
}

var errReplaced = errors.New("the directory has been replaced")

// isSame reports whether the directory is still the one that was listed.
func (d *directory) isSame() bool {
	info, err := os.Stat(d.path)
	return err == nil && d.info != nil && os.SameFile(info, d.info)
}

func (w *watcher) queue(ch discovery.Change) { w.queued = append(w.queued, ch) }

// Close implements discovery.Watcher.
func (w *watcher) Close() error {
	w.ticker.Stop()
	w.unfollow()
	return nil
}
