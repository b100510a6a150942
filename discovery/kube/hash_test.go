package kube

import "testing"

func TestHashPodName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ full, masked uint64 }{
		"":                  {0x30406ea523c53def, 121655548788207},
		"a":                 {0x719b50b9a4f0e9f3, 7688582637611507},
		"worker-0":          {0xb2843710f49c0cff, 1186445869714687},
		"worker-0-engine-0": {0x783c9a5dad7b0253, 8051026481054291},
	} {
		if got := sip13(append([]byte(name), 0xff)); got != want.full {
			t.Errorf("hash of %q: %#x, want %#x", name, got, want.full)
		}
		if got := HashPodName(name); got != want.masked {
			t.Errorf("id of %q: %d, want %d", name, got, want.masked)
		}
	}
}
