//go:build !cgo || nozmq

package zmq_test

import (
	"errors"
	"testing"

	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
)

func TestUnsupported(t *testing.T) {
	t.Parallel()
	if _, err := zmqdriver.New(zmqdriver.Options{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("New: %v, want ErrUnsupported", err)
	}
	if v := zmqdriver.Version(); v != "" {
		t.Errorf("Version: %q, want none", v)
	}
}
