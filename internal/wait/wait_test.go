package wait_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

func TestSleepLastsAsLongAsRequested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := wait.Sleep(t.Context(), 3*time.Second); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("slept %v, want 3s", d)
		}
	})
}

func TestSleepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := wait.Sleep(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want that of the context", err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("slept %v, want 1s", d)
		}
	})
}

func TestUntilEndsWithEither(t *testing.T) {
	for _, name := range []string{"the call", "the life"} {
		synctest.Test(t, func(t *testing.T) {
			call, cancelCall := context.WithCancel(t.Context())
			defer cancelCall()
			life, endLife := context.WithCancel(t.Context())
			defer endLife()
			ctx, cancel := wait.Until(call, life)
			defer cancel()
			synctest.Wait()
			if ctx.Err() != nil {
				t.Fatal("ended at once")
			}
			map[string]func(){"the call": cancelCall, "the life": endLife}[name]()
			synctest.Wait()
			if !errors.Is(ctx.Err(), context.Canceled) {
				t.Errorf("error %v after the end of %s", ctx.Err(), name)
			}
		})
	}
}
