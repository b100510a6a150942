// Package wait is the only way in which this module pauses.
package wait

import (
	"context"
	"time"
)

// Sleep blocks for d, or until ctx is done, whichever comes first. It returns
// ctx.Err() if ctx ended the pause, and nil otherwise.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Until returns a context that ends with ctx, and also with life, such as that of
// an object that is shut down. The caller must call the function.
func Until(ctx, life context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(life, cancel)
	return ctx, func() { stop(); cancel() }
}
