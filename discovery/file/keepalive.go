package file

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// interval is the time between two heartbeats. The runtime beats no faster than
// once a second; with a TTL under 3 s that would be too slow.
func (s *Store) interval() time.Duration { return min(s.opt.TTL, runtimeTTL) / 3 }

// keepAlive is the one goroutine of a store: it touches our files and removes
// those that nobody has touched.
func (s *Store) keepAlive(ctx context.Context) {
	defer close(s.stopped)
	ticker := time.NewTicker(s.interval())
	defer ticker.Stop()
	k := keeper{store: s}
	for {
		s.pulse.beat()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.pulse.beat()
			k.round(ctx)
		}
	}
}

// keeper is the state of keepAlive.
type keeper struct {
	store   *Store
	failing bool // and said so
}

func (k *keeper) round(ctx context.Context) {
	s := k.store
	s.mu.Lock()
	leases, dirs := slices.Collect(maps.Values(s.leases)), slices.Collect(maps.Keys(s.dirs))
	s.mu.Unlock()
	ours := map[string]struct{}{}
	for _, l := range leases {
		ours[l.path()] = struct{}{}
	}
	err := s.beatAll(ctx, leases)
	if ctx.Err() != nil {
		return
	}
	k.report(err)
	if !s.pulse.calm(time.Now()) {
		return
	}
	for _, dir := range dirs {
		if err := s.reap(ctx, dir, ours); err != nil && ctx.Err() == nil {
			s.log.Debug("discovery: expired files could not be removed", "directory", dir, "error", err)
		}
	}
}

// beatAll touches all, and returns the first failure.
func (s *Store) beatAll(ctx context.Context, leases []*lease) (failure error) {
	// Beats need no lock, registering again does. After one wait for it in vain
	// the others try once each, so that all get their beat in time.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	again, one := 0, ""
	for _, l := range leases {
		registered, err := l.beat(ctx)
		if err != nil && failure == nil {
			failure = err
		}
		if errors.Is(err, ErrLocked) {
			cancel()
		}
		if registered {
			again, one = again+1, l.path()
		}
	}
	if again > 0 {
		s.log.Warn("discovery: registrations were lost and are registered again", "count", again, "one", one)
	}
	return failure
}

func (k *keeper) report(err error) {
	if failing := err != nil; failing != k.failing {
		k.failing = failing
		if failing {
			k.store.log.Warn("discovery: registrations cannot be kept alive; trying on", "root", k.store.opt.Root, "error", err)
		} else {
			k.store.log.Info("discovery: registrations are kept alive again", "root", k.store.opt.Root)
		}
	}
}

// reap removes the files of a directory that have expired, whoever wrote them,
// temporary ones too. Ours are not for us to judge: we have just touched them.
func (s *Store) reap(ctx context.Context, dir string, ours map[string]struct{}) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreNotExist(err)
	}
	var expired []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if _, own := ours[path]; !own && e.Type().IsRegular() && s.hasExpired(path) {
			expired = append(expired, path)
		}
	}
	if len(expired) == 0 {
		return nil
	}
	unlock, err := lock(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	var failure error
	for _, path := range expired {
		// Somebody may have written it anew before we had the lock.
		if s.hasExpired(path) {
			failure = errors.Join(failure, ignoreNotExist(os.Remove(path)))
		}
	}
	return failure
}

func (s *Store) hasExpired(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && s.expired(info, time.Now())
}

func (s *Store) expired(info fs.FileInfo, now time.Time) bool {
	return now.Sub(info.ModTime()) > s.opt.TTL
}
