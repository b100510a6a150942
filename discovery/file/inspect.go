package file

import (
	"encoding/json"
	"errors"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// record is what the watcher has found under a path. A path is in one of three
// states: unknown (it has no record), present (the last change was an OpPut) or
// invalid (it was an OpInvalid).
//
//	finding     unknown             present             invalid
//	----------  ------------------  ------------------  -----------------
//	ignored     -                   -                   -
//	missing     -                   OpDelete, unknown   OpDelete, unknown
//	expired     -                   OpDelete, unknown   OpDelete, unknown
//	unchanged   (impossible)        -                   -
//	incomplete  -                   -                   -
//	heartbeat   (impossible)        -                   -
//	invalid     OpInvalid, invalid  OpInvalid, invalid  OpInvalid
//	newValue    OpPut, present      OpPut               OpPut, present
//
// An OpDelete from invalid concerns the last valid value, which a reader keeps
// until then; there is none if the name itself is that of no registration.
type record struct {
	info fs.FileInfo
	id   discovery.ID // zero if the name is that of no registration
	sum  uint64       // of the content, or of the error
}

// finding is the result of examining a name.
type finding uint8

const (
	ignored    finding = iota // a temporary file, or one that the query does not match
	missing                   // there is no such file
	expired                   // the file is older than the TTL, or is no regular file
	unchanged                 // the file has not been touched since it was recorded
	incomplete                // the content is not JSON yet; it may be half-written
	heartbeat                 // the file was touched, and its content is the recorded one
	invalid                   // the name or the content cannot be read
	newValue                  // the content is new
)

// examined is a finding with what led to it.
type examined struct {
	finding
	record        // info is nil if the file is missing
	value  []byte // of newValue
	err    error  // of invalid
}

// inspect examines a file and queues what follows from it. Content that is no
// JSON is reported only if the file is settled, as in a scan; otherwise a later
// scan finds it complete.
func (w *watcher) inspect(path string, settled bool) {
	now := time.Now()
	switch e := w.examine(path, settled, now); e.finding {
	case ignored, unchanged, incomplete:
	case missing, expired:
		w.remove(path, e.info, now)
	case heartbeat:
		w.files[path] = e.record
	case invalid:
		w.put(path, e.record)
		w.queue(discovery.Change{Op: discovery.OpInvalid, ID: e.id, Key: path, Err: e.err})
	case newValue:
		w.put(path, e.record)
		w.queue(discovery.Change{Op: discovery.OpPut, ID: e.id, Key: path, Value: e.value, TTL: w.store.opt.TTL})
	}
}

// examine reads as little as it can: the content only of a file that has been
// touched and that the query matches.
func (w *watcher) examine(path string, settled bool, now time.Time) (e examined) {
	if strings.HasPrefix(filepath.Base(path), tempPrefix) {
		return examined{finding: ignored}
	}
	info, err := os.Lstat(path)
	if err != nil {
		return examined{finding: missing}
	}
	e.info = info
	if !info.Mode().IsRegular() || w.store.expired(info, now) {
		e.finding = expired
		return e
	}
	before, known := w.files[path]
	if known && sameVersion(before.info, info) {
		e.finding = unchanged
		return e
	}
	if e.id, e.err = w.parse(path); e.err == nil {
		if !w.query.Match(e.id) {
			e.finding = ignored
			return e
		}
		e.value, e.err = read(path)
	}
	e.sum = w.sum(e.value, e.err)
	switch {
	case errors.Is(e.err, fs.ErrNotExist):
		return examined{finding: missing}
	case e.err == nil && !settled && !json.Valid(e.value):
		e.finding = incomplete
	case known && before.sum == e.sum:
		e.finding = heartbeat
	case e.err != nil:
		e.finding = invalid
	default:
		e.finding = newValue
	}
	return e
}

// parse returns the id that a path stands for.
func (w *watcher) parse(path string) (discovery.ID, error) {
	d := w.directory(filepath.Dir(path))
	if d == nil {
		return discovery.ID{}, errors.New("in none of the directories")
	}
	key, err := decodeKey(filepath.Base(path))
	if err != nil {
		return discovery.ID{}, err
	}
	return discovery.ParseDynamoKey(d.kind, key)
}

// sameVersion reports whether a file has neither been replaced nor touched. A write in
// place changes the modification time.
func sameVersion(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// sum is compared in the place of the content, so that records stay small.
func (w *watcher) sum(value []byte, err error) uint64 {
	if err != nil {
		return maphash.String(w.seed, err.Error())
	}
	return maphash.Bytes(w.seed, value)
}

// put records a file that is new or has changed.
func (w *watcher) put(path string, r record) {
	if _, known := w.files[path]; !known && r.id != (discovery.ID{}) {
		w.filesOf[r.id]++
	}
	w.files[path] = r
}

// remove deletes the record of a file, and queues an OpDelete if no other file
// has the same id. last is the file as it is, or nil if it is missing.
func (w *watcher) remove(path string, last fs.FileInfo, now time.Time) {
	before, known := w.files[path]
	if !known {
		return
	}
	if last == nil {
		if d := w.directory(filepath.Dir(path)); d == nil || !d.isSame() { // the whole directory was removed, which is not its owner's doing
			w.unfollow()
			return
		}
		last = before.info
	}
	delete(w.files, path)
	if before.id == (discovery.ID{}) {
		return
	}
	if w.filesOf[before.id]--; w.filesOf[before.id] > 0 {
		w.inspectOther(before.id)
		return
	}
	delete(w.filesOf, before.id)
	w.queue(discovery.Change{
		Op: discovery.OpDelete, ID: before.id, Key: path,
		TTL: w.store.opt.TTL, Cause: w.cause(last, now),
	})
}

// cause returns why a file is gone, by its age when it was last inspected: a
// file that had not expired was removed on purpose.
func (w *watcher) cause(last fs.FileInfo, now time.Time) discovery.Cause {
	switch {
	case !w.store.expired(last, now):
		return discovery.CauseUnregistered
	case !w.store.clock.trusted(now):
		return discovery.CauseUncertain
	}
	return discovery.CauseExpired
}

// inspectOther reports another file of the same id as a new value, in the place
// of one that is gone.
func (w *watcher) inspectOther(id discovery.ID) {
	for path, r := range w.files {
		if r.id == id {
			delete(w.files, path)
			w.filesOf[id]--
			w.inspect(path, true)
			return
		}
	}
}
