package kube

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestLogicalID(t *testing.T) {
	t.Parallel()
	const idVar, keyVar = "DYN_DISCOVERY_LOGICAL_INSTANCE_ID", "DYN_DISCOVERY_LOGICAL_INSTANCE_KEY"
	for _, c := range []struct {
		id, key string
		want    uint64
		err     string // that the error contains
	}{
		{"", "", HashPodName("leader-0"), ""},
		{"42", "k", 42, ""},
		{" 0x2A ", "", 42, ""},
		{"0X2a", "", 42, ""},
		{"9007199254740991", "", 1<<53 - 1, ""},
		{"", "  ", HashPodName("leader-0"), ""},
		{"", "worker-0", 1186445869714687, ""}, // computed by Rust
		{"", "ns/$(POD_NAME)/engine", HashPodName("ns/leader-0/engine"), ""},
		{"", "$(POD_NAME)$(POD_NAME)", HashPodName("leader-0leader-0"), ""},
		{"", "cost$", HashPodName("cost$"), ""},
		{"0", "k", 0, idVar + ` "0": want 1 to 9007199254740991`},
		{"nope", "", 0, `"nope"`},
		{"-1", "", 0, `"-1"`},
		{"9007199254740992", "", 0, "want 1 to"},
		{"", "ns/$(MISSING)", 0, keyVar + ` "ns/$(MISSING)": MISSING is not set`},
		{"", "ns/$(POD_NAME", 0, "want a )"},
	} {
		env := map[string]string{"POD_NAME": "leader-0", idVar: c.id, keyVar: c.key}
		got, err := fromEnv(lookup(env), fstest.MapFS{})
		switch {
		case c.err == "" && (err != nil || got.InstanceID() != c.want):
			t.Errorf("id %q, key %q: %d, %v, want %d", c.id, c.key, got.InstanceID(), err, c.want)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("id %q, key %q: error %v, want one with %s", c.id, c.key, err, c.err)
		}
	}
}
