//go:build !cgo || nozmq

package broker_test

import (
	"errors"
	"testing"

	"github.com/dynplane/dynplane/broker"
)

func TestUnsupported(t *testing.T) {
	t.Parallel()
	if _, err := broker.New(broker.Options{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("New: %v, want ErrUnsupported", err)
	}
}
