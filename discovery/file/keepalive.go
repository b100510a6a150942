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

// heartbeatInterval is the time between two heartbeats. Dynamo sends at most
// one a second, which would be too slow for a TTL under 3 s.
func (s *Store) heartbeatInterval() time.Duration { return min(s.opt.TTL, dynamoTTL) / 3 }

// keepAlive is the one goroutine of a store. It touches the store's files and
// removes the expired files of all processes.
func (s *Store) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(s.heartbeatInterval())
	defer ticker.Stop()
	k := keeper{store: s}
	for {
		s.clock.observe()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.clock.observe()
			k.round(ctx)
		}
	}
}

// keeper is the state of keepAlive.
type keeper struct {
	store   *Store
	failing bool // and logged
}

// round sends a heartbeat for every lease, writes lost files again, and then removes
// the expired files of the directories in which the store has registered something.
func (k *keeper) round(ctx context.Context) {
	s := k.store
	s.mu.Lock()
	leases, leaving := slices.Collect(maps.Values(s.leases)), slices.Collect(maps.Keys(s.leaving))
	dirs := slices.Collect(maps.Keys(s.dirs))
	s.mu.Unlock()
	ours := map[string]struct{}{}
	for _, l := range leases {
		ours[l.path] = struct{}{}
	}
	err := s.sendHeartbeats(ctx, leases)
	if ctx.Err() != nil {
		return
	}
	// The next heartbeats must not wait for a locked directory.
	ctx, cancel := context.WithTimeout(ctx, s.heartbeatInterval()/2)
	defer cancel()
	if _, rerr := s.removeLeaving(ctx, leaving); err == nil {
		err = rerr
	}
	if s.isClosed() {
		return
	}
	k.report(err)
	if !s.clock.trusted(time.Now()) {
		return
	}
	for _, dir := range dirs {
		if err := s.removeExpired(ctx, dir, ours); err != nil && ctx.Err() == nil {
			s.log.Debug("file: removing expired files failed", "directory", dir, "error", err)
		}
	}
}

// sendHeartbeats touches all files, and then writes again those that are missing.
// It returns the first failure.
func (s *Store) sendHeartbeats(ctx context.Context, leases []*lease) (failure error) {
	var lost []*lease
	for _, l := range leases {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		missing, err := l.heartbeat()
		if missing {
			lost = append(lost, l)
		}
		if err != nil && failure == nil {
			failure = err
		}
	}
	if len(lost) == 0 {
		return failure
	}
	// After the first time-out of a lock, the others are tried once without
	// waiting.
	ctx, cancel := context.WithTimeout(ctx, s.heartbeatInterval()/2)
	defer cancel()
	rewritten, example := 0, ""
	began := time.Now()
	for _, l := range lost {
		if time.Since(began) > s.heartbeatInterval() { // the next round continues
			break
		}
		again, err := l.rewrite(ctx)
		if err != nil && failure == nil {
			failure = err
		}
		if errors.Is(err, ErrLocked) {
			cancel()
		}
		if again {
			rewritten, example = rewritten+1, l.path
		}
		if s.isClosed() {
			return failure
		}
	}
	if rewritten > 0 {
		s.log.Warn("file: registrations were lost and have been written again", "count", rewritten, "example", example)
	}
	return failure
}

// report logs the first failure and the first success after it.
func (k *keeper) report(err error) {
	if failing := err != nil; failing != k.failing {
		k.failing = failing
		if failing {
			k.store.log.Warn("file: keep-alive failed, retrying", "root", k.store.opt.Root, "error", err)
		} else {
			k.store.log.Info("file: keep-alive recovered", "root", k.store.opt.Root)
		}
	}
}

// removeExpired removes the expired files of a directory, temporary ones
// included, whichever process wrote them. The store's own files have just been
// touched and are skipped.
func (s *Store) removeExpired(ctx context.Context, dir string, ours map[string]struct{}) error {
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
	unlock, err := lock(ctx, dir, exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	var failure error
	for _, path := range expired {
		// It may have been written again before the directory was locked.
		if s.hasExpired(path) {
			failure = errors.Join(failure, ignoreNotExist(os.Remove(path)))
		}
	}
	return failure
}

// present reports whether there is a registration under a path, as in a watch.
func (s *Store) present(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && !s.expired(info, time.Now())
}

func (s *Store) hasExpired(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && s.expired(info, time.Now())
}

// expired reports whether a file has not been touched for longer than the TTL.
func (s *Store) expired(info fs.FileInfo, now time.Time) bool {
	return now.Sub(info.ModTime()) > s.opt.TTL
}
