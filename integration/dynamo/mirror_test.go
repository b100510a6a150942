package dynamo

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/mirror"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestMirrorKeepsFields compares the JSON of a real worker's registrations with
// what a mirror makes of them in a bucket. Many of their fields are not defined
// here; those of the other generation's form are added.
func TestMirrorKeepsFields(t *testing.T) {
	t.Parallel()
	for _, version := range []string{dynamotest.Gen2, dynamotest.Gen1} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, version, "bucket", "direct")
			files, bucket := openStore(t, p.theirs), openStore(t, p.ours)
			worker := p.start(t, "worker.py")
			p.checkRegistrations(t, files, worker.Await("ready", 1).WorkerID)
			waittest.Eventually(t, "all is mirrored", func() bool {
				return len(raw(t, files)) == p.registrations() && len(raw(t, bucket)) == p.registrations()
			})
			want, got := raw(t, files), raw(t, bucket)
			for id, fields := range want {
				mirrored := got[id]
				if mirrored[mirror.Field] == nil {
					t.Errorf("%v is not marked as mirrored", id)
				}
				for name, value := range fields {
					if !reflect.DeepEqual(mirrored[name], value) {
						t.Errorf("%v: mirrored %s %v, registered %v", id, name, mirrored[name], value)
					}
				}
			}
		})
	}
}

// raw returns the fields of all registrations, with their numbers as they are written.
func raw(t *testing.T, store *discovery.Client) map[discovery.ID]map[string]any {
	t.Helper()
	all := make(map[discovery.ID]map[string]any)
	for _, kind := range kinds {
		for _, in := range list(t, store, discovery.Query{Kind: kind}) {
			decoder := json.NewDecoder(bytes.NewReader(in.Raw))
			decoder.UseNumber()
			var fields map[string]any
			if err := decoder.Decode(&fields); err != nil {
				t.Fatal(err)
			}
			all[in.ID()] = fields
		}
	}
	return all
}
