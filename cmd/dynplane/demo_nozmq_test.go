//go:build !cgo || nozmq

package main

import (
	"io"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/internal/logtest"
)

func TestDemoWithoutZMQ(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"zmq", "broker"} {
		var errs logtest.Buffer
		a := &app{lookup: lookupIn(nil), stdout: io.Discard, stderr: &errs}
		if code := a.run(t.Context(), []string{"demo", "--transport", transport}); code != exitFailure ||
			!strings.Contains(errs.String(), "built without ZeroMQ") {
			t.Errorf("%s: exit code %d, %q", transport, code, errs.String())
		}
	}
}
