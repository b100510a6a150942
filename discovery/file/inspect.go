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

// look finds out what there is under a name and queues what has changed.
// Unless it is settled, what is no JSON may be half-written: the next scan will
// see.
func (w *watcher) look(name string, settled bool) {
	if strings.HasPrefix(name, tempPrefix) {
		return
	}
	path, now := filepath.Join(w.dir, name), time.Now()
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || w.store.expired(info, now) {
		w.gone(name, info, now)
		return
	}
	before, known := w.files[name]
	if known && sameVersion(before.info, info) {
		return
	}
	id, err := w.parse(name)
	if err == nil && !w.query.Match(id) {
		return
	}
	var data []byte
	if err == nil {
		if data, err = read(path); errors.Is(err, fs.ErrNotExist) {
			w.gone(name, nil, now)
			return
		}
	}
	if err == nil && !settled && !json.Valid(data) {
		return
	}
	sum := maphash.Bytes(w.seed, data)
	if err != nil {
		sum = maphash.String(w.seed, err.Error())
	}
	if !known && id != (discovery.ID{}) {
		w.names[id]++
	}
	w.files[name] = seen{info, id, sum}
	switch {
	case known && before.sum == sum: // a heartbeat
	case err != nil:
		w.queue(discovery.Change{Op: discovery.OpInvalid, ID: id, Key: path, Err: err})
	default:
		w.queue(discovery.Change{Op: discovery.OpPut, ID: id, Key: path, Value: data, TTL: w.store.opt.TTL})
	}
}

func (w *watcher) parse(name string) (discovery.ID, error) {
	key, err := decodeName(name)
	if err != nil {
		return discovery.ID{}, err
	}
	return discovery.ParseDynamoKey(w.query.Kind, key)
}

func sameVersion(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// gone reports a file that is no more, or no more a registration. info is that
// of a file that is still there.
func (w *watcher) gone(name string, info fs.FileInfo, now time.Time) {
	before, known := w.files[name]
	if !known {
		return
	}
	if info == nil {
		if !w.inPlace() { // it went with its directory, which is no word of its owner's
			w.disarm()
			return
		}
		info = before.info
	}
	delete(w.files, name)
	if before.id == (discovery.ID{}) {
		return
	}
	if w.names[before.id]--; w.names[before.id] > 0 {
		w.lookForOther(before.id)
		return
	}
	delete(w.names, before.id)
	w.queue(discovery.Change{
		Op: discovery.OpDelete, ID: before.id, Key: filepath.Join(w.dir, name),
		TTL: w.store.opt.TTL, Cause: w.cause(info, now),
	})
}

// cause tells why a file is gone by its age when it was last looked at: who
// removes one that has not expired does it on purpose.
func (w *watcher) cause(last fs.FileInfo, now time.Time) discovery.Cause {
	switch {
	case !w.store.expired(last, now):
		return discovery.CauseUnregistered
	case !w.store.pulse.calm(now):
		return discovery.CauseUncertain
	}
	return discovery.CauseExpired
}

// lookForOther has another file of the same id reported in the place of one
// that is gone.
func (w *watcher) lookForOther(id discovery.ID) {
	for name, f := range w.files {
		if f.id == id {
			delete(w.files, name)
			w.names[id]--
			w.look(name, true)
			return
		}
	}
}
