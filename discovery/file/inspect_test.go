//go:build linux || darwin

package file

import (
	"hash/maphash"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// TestInspect goes through the transitions in the comment of record, in an
// order in which each step begins in the state in which the last one ended.
func TestInspect(t *testing.T) {
	t.Parallel()
	s, err := New(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.opt.Root)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{
		store: s, query: discovery.Query{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: "ns"}},
		dirs: []*directory{{discovery.KindEndpoint, s.opt.Root, info}}, seed: maphash.MakeSeed(), following: true,
		files: map[string]record{}, filesOf: map[discovery.ID]int{},
	}
	pathOf := func(name string) string { return filepath.Join(s.opt.Root, name) }
	const entry = "ns%2Fcomp%2Fep%2F1"
	write := func(name, content string) func() error {
		return func() error { return os.WriteFile(pathOf(name), []byte(content), 0o666) }
	}
	touch := func(age time.Duration) func() error {
		return func() error { return os.Chtimes(pathOf(entry), time.Time{}, time.Now().Add(-age)) }
	}
	truncate := func(size int64) func() error {
		return func() error { return os.Truncate(pathOf(entry), size) }
	}
	remove := func(name string) func() error { return func() error { return os.Remove(pathOf(name)) } }
	nothing := func() error { return nil }
	none := discovery.Op(0)
	for _, step := range []struct {
		name    string
		file    string
		do      func() error
		settled bool
		want    discovery.Op
	}{
		// unknown
		{"missing", entry, nothing, true, none},
		{"temporary", tempPrefix + "0", write(tempPrefix+"0", `{}`), true, none},
		{"of another query", "other%2Fcomp%2Fep%2F1", write("other%2Fcomp%2Fep%2F1", `{}`), true, none},
		{"incomplete", entry, write(entry, `{"a":`), false, none},
		{"new value", entry, write(entry, `{"a":1}`), false, discovery.OpPut},
		// present
		{"unchanged", entry, nothing, true, none},
		{"heartbeat", entry, touch(time.Second), true, none},
		{"another value", entry, write(entry, `{"a":20}`), false, discovery.OpPut},
		{"incomplete again", entry, write(entry, `{"a":`), false, none},
		{"incomplete for good", entry, nothing, true, discovery.OpPut},
		{"too large", entry, truncate(maxValue + 1), true, discovery.OpInvalid},
		// invalid
		{"invalid and unchanged", entry, nothing, true, none},
		{"invalid and touched", entry, touch(2 * time.Second), true, none},
		{"valid again", entry, write(entry, `{"a":1}`), true, discovery.OpPut},
		{"invalid again", entry, truncate(maxValue + 1), true, discovery.OpInvalid},
		{"invalid and expired", entry, touch(time.Hour), true, discovery.OpDelete},
		// unknown
		{"expired already", entry, nothing, true, none},
		{"back again", entry, write(entry, `{"a":1}`), true, discovery.OpPut},
		{"removed", entry, remove(entry), true, discovery.OpDelete},
		{"name of no registration", "README", write("README", "text"), true, discovery.OpInvalid},
		{"removed without an id", "README", remove("README"), true, none},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		w.inspect(pathOf(step.file), step.settled)
		var got []discovery.Op
		for _, ch := range w.queued {
			got = append(got, ch.Op)
		}
		w.queued = nil
		var want []discovery.Op
		if step.want != none {
			want = []discovery.Op{step.want}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: changes %v, want %v", step.name, got, want)
		}
	}
	if len(w.files) > 0 || len(w.filesOf) > 0 {
		t.Errorf("records left: %v, %v", w.files, w.filesOf)
	}
}
