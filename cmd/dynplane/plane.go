package main

import (
	"context"
	"errors"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
)

// withPlane runs do on the event plane that the environment configures, with
// discovery where it is needed, and shuts both down. A signal is no error.
func (a *app) withPlane(ctx context.Context, needsDiscovery func(eventplane.Config) bool, do func(*eventplane.Client) error) error {
	cfg, err := eventplane.ConfigFromEnv(a.env)
	if err != nil {
		return err
	}
	var found *discovery.Client
	if needsDiscovery(cfg) {
		if found, err = a.discover(ctx); err != nil {
			return unlessDone(ctx, err)
		}
	}
	plane, err := a.plane(cfg, found)
	if err == nil {
		err = errors.Join(unlessDone(ctx, hint(do(plane))), a.shutdown(ctx, plane))
	}
	if found != nil {
		err = errors.Join(err, a.shutdown(ctx, found))
	}
	return err
}

// plane makes a client that logs as all verbs do; d may be nil where it is not
// needed.
func (a *app) plane(cfg eventplane.Config, d *discovery.Client) (*eventplane.Client, error) {
	cfg.Logger = a.logger()
	return eventplane.New(cfg, d)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
