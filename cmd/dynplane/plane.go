package main

import (
	"context"
	"errors"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/eventplane"
)

// withPlane runs do with the event plane that the environment configures, and
// with discovery, or nil, if needsDiscovery reports true, and shuts both down. A signal
// is not an error.
func (a *app) withPlane(ctx context.Context, needsDiscovery func(eventplane.Config) bool, do func(*eventplane.Client, *discovery.Client) error) error {
	// The defaults of the event plane depend on the backend, even where it is
	// not opened.
	if _, err := backend.Name(a.env); err != nil {
		return err
	}
	cfg, err := eventplane.ConfigFromEnv(a.env)
	if err != nil {
		return err
	}
	a.usesNATS = cfg.Transport == discovery.TransportNATS
	var found *discovery.Client
	if needsDiscovery(cfg) {
		if found, err = a.discover(ctx); err != nil {
			return unlessDone(ctx, err)
		}
	}
	plane, err := a.plane(cfg, found)
	if err == nil {
		err = errors.Join(unlessDone(ctx, hint(do(plane, found))), a.shutdown(ctx, plane))
	}
	if found != nil {
		err = errors.Join(err, a.shutdown(ctx, found))
	}
	return err
}

// plane returns a client of the event plane. d may be nil if it is not needed.
func (a *app) plane(cfg eventplane.Config, d *discovery.Client) (*eventplane.Client, error) {
	cfg.Logger = a.logger()
	return eventplane.New(cfg, d)
}
