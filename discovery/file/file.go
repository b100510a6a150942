// Package file keeps registrations as files of one machine, beside those of
// NVIDIA Dynamo's runtime: same directories, names and values, so that either
// side finds the other's workers without any server.
//
//	options, err := file.FromEnv(os.LookupEnv) // DYN_FILE_KV, TMPDIR
//	store, err := file.New(options)
//	client := discovery.NewClient(store, discovery.Options{})
//	defer client.Shutdown(ctx) // removes our files
//
// A registration is the file {root}/{bucket}/{key}, its key percent-encoded
// (discovery.DynamoKey; docs/protocol.md has the rules that all who share a
// root obey). It lives while its modification time is younger than the TTL: its
// owner touches it every third of that, and everybody removes files that are
// older.
//
// # What is promised
//
// An owner that dies is Removed within the TTL + 1 s, one that unregisters at
// once. A file removed by anybody else is taken as removed on purpose, unless it
// was older than the TTL; its owner, if it lives, registers it again within a
// third of the TTL, with a warning. A file under our name that is not the one
// that we wrote, or holds something else, has been taken over, and is left alone
// (discovery.ErrTakenOver).
//
// After this machine was suspended, this process stopped or the clock set,
// expired files are left alone for one TTL, and watches hold their removal for
// as long.
//
// All processes that share a root must share the machine too, or a file system
// whose locks work across machines. Linux and macOS only.
package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// Options are the settings of New. Root is required.
type Options struct {
	// Root is the directory above the buckets. Writers make it.
	Root string

	// TTL is how old a file may grow untouched: at least 1 s, zero is 10 s. It
	// must be the same for all who share the root, since everybody removes
	// what is older; that of the runtime is 10 s.
	TTL time.Duration

	// Logger hears what is lost and found again; nil is silent.
	Logger *slog.Logger
}

const (
	defaultTTL = 10 * time.Second
	minTTL     = time.Second

	// runtimeTTL is after what the runtime's processes remove a file, whatever
	// our own TTL.
	runtimeTTL = 10 * time.Second
)

// FromEnv reads DYN_FILE_KV, which names the root; unset or empty is
// dynamo_store_kv in TMPDIR, or in /tmp. lookup is os.LookupEnv, or what a test
// wants.
func FromEnv(lookup func(string) (string, bool)) (Options, error) {
	root, _ := lookup("DYN_FILE_KV")
	if root == "" {
		tmp, _ := lookup("TMPDIR")
		if tmp == "" {
			tmp = "/tmp"
		}
		root = filepath.Join(tmp, "dynamo_store_kv")
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return Options{}, fmt.Errorf("file: DYN_FILE_KV %q: %w", root, err)
	}
	return Options{Root: root}, nil
}

// Store is the discovery.Store on files. It is safe for concurrent use.
type Store struct {
	opt   Options
	log   *slog.Logger
	pulse pulse

	closed   chan struct{}
	shutdown sync.Once
	deaf     sync.Once // that the kernel tells us nothing is said once

	mu      sync.Mutex
	leases  map[string]*lease   // by path
	dirs    map[string]struct{} // in use: where the keeper removes what expired
	stop    context.CancelFunc  // of the keeper; nil until the first use
	stopped chan struct{}
}

// New makes a store. It touches no file before the first use. The error wraps
// errors.ErrUnsupported on systems other than Linux and macOS.
func New(o Options) (*Store, error) {
	if !supported {
		return nil, fmt.Errorf("file: want Linux or macOS, whose directories can be locked: %w", errors.ErrUnsupported)
	}
	if o.Root == "" {
		return nil, errors.New("file: the root is empty: want a directory")
	}
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.TTL < minTTL {
		return nil, fmt.Errorf("file: TTL %v: want at least %v", o.TTL, minTTL)
	}
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return nil, fmt.Errorf("file: root %q: %w", o.Root, err)
	}
	o.Root = root
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		opt: o, log: o.Logger,
		closed: make(chan struct{}),
		leases: map[string]*lease{}, dirs: map[string]struct{}{},
	}
	s.pulse = pulse{patience: s.interval() + o.TTL/3, calmAfter: o.TTL}
	return s, nil
}

// interval is the time between two heartbeats. The runtime beats no faster than
// once a second; with a TTL under 3 s that would be too slow.
func (s *Store) interval() time.Duration { return min(s.opt.TTL, runtimeTTL) / 3 }

// dir returns the directory of a kind, or "" if there is no such kind: nothing
// is ever found there.
func (s *Store) dir(kind discovery.Kind) string {
	bucket, err := discovery.DynamoBucket(kind)
	if err != nil {
		return ""
	}
	return filepath.Join(s.opt.Root, filepath.FromSlash(bucket))
}

// Register implements discovery.Store. What is there already under the same id
// is replaced, which is the runtime's way to change a value.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte) (discovery.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	key, err := discovery.DynamoKey(id)
	if err != nil {
		return nil, err
	}
	name, err := encodeName(key)
	if err != nil {
		return nil, err
	}
	if len(value) > maxValue {
		return nil, fmt.Errorf("value of %d bytes: want at most %d", len(value), maxValue)
	}
	l := &lease{store: s, dir: s.dir(id.Kind), name: name, value: value, LeaseEnd: discovery.NewLeaseEnd()}
	if err := s.use(l.dir); err != nil {
		return nil, err
	}
	if l.file, err = publish(ctx, l.dir, name, value, true); err != nil {
		return nil, err
	}
	former, err := s.keep(l)
	if err != nil {
		err = errors.Join(err, l.remove(ctx))
		l.file.Close()
		return nil, err
	}
	if former != nil {
		former.takenOver()
	}
	return l, nil
}

// use notes a directory for the keeper, which it starts at the first one.
func (s *Store) use(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return discovery.ErrClosed
	}
	s.dirs[dir] = struct{}{}
	if s.stop == nil {
		ctx, cancel := context.WithCancel(context.Background())
		s.stop, s.stopped = cancel, make(chan struct{})
		go s.keepAlive(ctx)
	}
	return nil
}

// keep hands a lease to the keeper and returns the one whose place it took.
func (s *Store) keep(l *lease) (former *lease, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	former = s.leases[l.path()]
	s.leases[l.path()] = l
	return former, nil
}

func (s *Store) forget(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[l.path()] == l {
		delete(s.leases, l.path())
	}
}

func (s *Store) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// Shutdown implements discovery.Store. It waits at most a second or so for a
// lock that another process does not let go; what it could not remove then goes
// when it expires, and the error says so.
func (s *Store) Shutdown(ctx context.Context) (err error) {
	s.shutdown.Do(func() { err = s.shutDown(ctx) })
	return err
}

func (s *Store) shutDown(ctx context.Context) error {
	s.mu.Lock()
	close(s.closed)
	stop := s.stop
	s.mu.Unlock()
	if stop != nil {
		stop()
		<-s.stopped
	}
	s.mu.Lock()
	leases := slices.Collect(maps.Values(s.leases))
	s.mu.Unlock()
	// After one wait for a lock in vain, the others are tried once each.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed, last := 0, error(nil)
	for _, l := range leases {
		if err := l.Unregister(ctx); err != nil {
			failed, last = failed+1, err
			cancel()
		}
	}
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d registrations stay until they expire, within %v: %w", failed, len(leases), s.opt.TTL, last)
}
