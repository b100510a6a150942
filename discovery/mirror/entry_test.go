package mirror

import (
	"testing"

	"github.com/dynplane/dynplane/discovery"
)

func TestState(t *testing.T) {
	t.Parallel()
	source, reg := &discovery.Instance{}, &discovery.Registration{}
	for _, c := range []struct {
		name string
		e    entry
		want state
	}{
		{"in neither", entry{}, absent},
		{"only others have it", entry{target: others}, absent},
		{"unregistered, and the watch lags", entry{target: ours}, absent},
		{"only in the source", entry{source: source, version: 1}, wanted},
		{"lost, and the watch lags", entry{source: source, version: 1, target: ours}, wanted},
		{"others have it", entry{source: source, version: 1, target: others}, standBy},
		{"others took it over", entry{source: source, version: 1, target: others, reg: reg, held: 1}, standBy},
		{"others have it and the source has changed", entry{source: source, version: 2, target: others, reg: reg, held: 1}, standBy},
		{"registered", entry{source: source, version: 1, target: ours, reg: reg, held: 1}, held},
		{"registered, and the watch lags", entry{source: source, version: 1, reg: reg, held: 1}, held},
		{"the source has changed", entry{source: source, version: 2, target: ours, reg: reg, held: 1}, stale},
		{"gone from the source", entry{version: 1, target: ours, reg: reg, held: 1}, unwanted},
		{"gone from the source and taken over", entry{version: 1, target: others, reg: reg, held: 1}, unwanted},
	} {
		if got := c.e.state(); got != c.want {
			t.Errorf("%s: state %d, want %d", c.name, got, c.want)
		}
	}
}
