package wait_test

import (
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

// TestBackoffIsExponentialWithFullJitter samples many sequences: the longest n-th
// pause is near its bound, the shortest near zero.
func TestBackoffIsExponentialWithFullJitter(t *testing.T) {
	const sequences = 2000
	bounds := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}
	shortest, longest := make([]time.Duration, len(bounds)), make([]time.Duration, len(bounds))
	for range sequences {
		b := wait.Backoff{Min: time.Second, Max: 5 * time.Second}
		for i := range bounds {
			d := b.Next()
			if shortest[i] == 0 || d < shortest[i] {
				shortest[i] = d
			}
			longest[i] = max(longest[i], d)
		}
	}
	for i, bound := range bounds {
		if longest[i] > bound || longest[i] < bound*9/10 {
			t.Errorf("the longest pause %d is %v, want one near %v", i, longest[i], bound)
		}
		if shortest[i] <= 0 || shortest[i] > bound/10 {
			t.Errorf("the shortest pause %d is %v, want one near zero", i, shortest[i])
		}
	}
}

func TestBackoffBeginsAgainAfterReset(t *testing.T) {
	b := wait.Backoff{Min: time.Millisecond, Max: time.Hour}
	for range 100 { // the bound does not overflow
		if d := b.Next(); d <= 0 || d > time.Hour {
			t.Fatalf("pause %v, want one up to an hour", d)
		}
	}
	b.Reset()
	if d := b.Next(); d > time.Millisecond {
		t.Errorf("the first pause after Reset is %v, want at most 1ms", d)
	}
}
