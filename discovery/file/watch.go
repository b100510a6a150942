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

// watcher follows a directory. What it hears from the kernel only says where
// to look: what it reports is what it then finds, so that events that come
// twice, late or not at all do no harm. All files are looked at twice a second
// too. That finds what expired and what the kernel did not tell (some file
// systems tell nothing), and is the sign of life.
//
// What counts is files that have not expired: whether somebody has removed
// those that have makes no difference.
type watcher struct {
	store  *Store
	query  discovery.Query
	dir    string
	seed   maphash.Seed
	ticker *time.Ticker

	begun  bool              // the first listing is under way
	absent bool              // there is no directory, and that has been said
	armed  fs.FileInfo       // the directory that is followed; nil is none
	notify *fsnotify.Watcher // nil if the kernel gives us none

	files  map[string]seen      // by name
	names  map[discovery.ID]int // both generations can have a file of one id
	todo   []string             // names to look at
	then   discovery.Change     // to be delivered when that is done
	queued []discovery.Change   // to be delivered before anything else
}

// seen is what was found in a file.
type seen struct {
	info fs.FileInfo
	id   discovery.ID // zero if the name is that of no registration
	sum  uint64       // of the content
}

// scanInterval is how often all files are looked at.
const scanInterval = 500 * time.Millisecond

// Watch implements discovery.Store. A directory that is not there is waited
// for. One whose lock cannot be had for a second is an error of the watch.
func (s *Store) Watch(_ context.Context, q discovery.Query) (discovery.Watcher, error) {
	dir := s.dir(q.Kind)
	if err := s.use(dir); err != nil {
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
			return ch, nil
		}
		if err := w.step(ctx); err != nil && ctx.Err() == nil {
			if !w.begun {
				return discovery.Change{}, err
			}
			w.store.log.Debug("discovery: the directory cannot be listed; trying on", "directory", w.dir, "error", err)
			w.wait(ctx)
		}
	}
}

// step does one thing that may queue changes.
func (w *watcher) step(ctx context.Context) error {
	switch {
	case len(w.todo) > 0:
		name := w.todo[0]
		w.todo = w.todo[1:]
		w.look(name, true)
	case w.then.Op != 0:
		w.queue(w.then)
		w.then = discovery.Change{}
	case w.armed == nil:
		return w.list(ctx)
	default:
		w.wait(ctx)
	}
	return nil
}

// wait waits for something to look at.
func (w *watcher) wait(ctx context.Context) {
	var events chan fsnotify.Event
	var lost chan error
	if w.notify != nil {
		events, lost = w.notify.Events, w.notify.Errors
	}
	select {
	case ev := <-events:
		switch {
		case ev.Op == fsnotify.Chmod: // a heartbeat
		case ev.Name == w.dir:
			w.disarm()
		default:
			w.store.pulse.beat()
			w.look(filepath.Base(ev.Name), false)
		}
	case err := <-lost: // too many events: look at all
		w.store.log.Debug("discovery: events of the directory were lost", "directory", w.dir, "error", err)
		w.scan()
	case <-w.ticker.C:
		w.scan()
	case <-w.store.closed:
	case <-ctx.Done():
	}
}

// list begins a full listing.
func (w *watcher) list(ctx context.Context) error {
	start := w.store.pulse.beat()
	info, err := os.Stat(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		w.waitForDirectory(ctx, start)
		return nil
	}
	if err != nil {
		return err
	}
	w.arm() // before the listing, so that nothing falls between the two
	unlock, err := lock(ctx, w.dir)
	if err != nil {
		w.disarm()
		return ignoreNotExist(err)
	}
	entries, err := os.ReadDir(w.dir)
	unlock()
	if err != nil {
		w.disarm()
		return ignoreNotExist(err)
	}
	w.then = discovery.Change{Op: discovery.OpProgress, AliveSince: start}
	if !w.absent { // else the listing has been delivered: it was empty
		w.reset()
		w.then = discovery.Change{Op: discovery.OpSynced}
	}
	w.armed, w.absent = info, false
	w.todo = namesOf(entries)
	return nil
}

func namesOf(entries []os.DirEntry) []string {
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

func (w *watcher) reset() {
	w.begun = true
	w.files, w.names = map[string]seen{}, map[discovery.ID]int{}
	w.queue(discovery.Change{Op: discovery.OpReset})
}

// waitForDirectory takes one that is missing as empty.
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

// arm asks the kernel for events. Without them there is still the scan.
func (w *watcher) arm() {
	notify, err := fsnotify.NewWatcher()
	if err == nil {
		if err = notify.Add(w.dir); err == nil {
			w.notify = notify
			return
		}
		notify.Close()
	}
	w.store.deaf.Do(func() {
		w.store.log.Warn("discovery: the kernel watches no more directories for us (fs.inotify.max_user_instances?); looking twice a second instead",
			"directory", w.dir, "error", err)
	})
}

// disarm has the next step list again.
func (w *watcher) disarm() {
	if w.notify != nil {
		w.notify.Close()
	}
	w.armed, w.notify, w.todo, w.then = nil, nil, nil, discovery.Change{}
}

// scan has all files looked at, those that have gone too. It needs no lock,
// since files appear and go as a whole.
func (w *watcher) scan() {
	start := w.store.pulse.beat()
	entries, err := os.ReadDir(w.dir)
	if err != nil || !w.inPlace() {
		w.disarm()
		return
	}
	w.todo = namesOf(entries)
	listed := make(map[string]struct{}, len(entries))
	for _, name := range w.todo {
		listed[name] = struct{}{}
	}
	for name := range w.files {
		if _, ok := listed[name]; !ok {
			w.todo = append(w.todo, name)
		}
	}
	w.then = discovery.Change{Op: discovery.OpProgress, AliveSince: start}
}

// inPlace reports whether the directory is the one that we follow.
func (w *watcher) inPlace() bool {
	info, err := os.Stat(w.dir)
	return err == nil && os.SameFile(info, w.armed)
}

func (w *watcher) queue(ch discovery.Change) { w.queued = append(w.queued, ch) }

// Close implements discovery.Watcher.
func (w *watcher) Close() error {
	w.ticker.Stop()
	w.disarm()
	return nil
}
