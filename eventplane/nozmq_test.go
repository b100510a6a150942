//go:build !cgo || nozmq

package eventplane_test

import (
	"errors"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
)

func zmqTransports() map[string]func(testing.TB) eventplane.Config { return nil }

func TestZMQIsUnsupported(t *testing.T) {
	t.Parallel()
	_, err := eventplane.New(eventplane.Config{Transport: discovery.TransportZMQ}, nil)
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error %v: want ErrUnsupported", err)
	}
}
