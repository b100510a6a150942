//go:build cgo && !nozmq

package examples_test

import (
	"path/filepath"
	"testing"

	"github.com/dynplane/dynplane/integration/natstest"
)

func TestExamplesOverZMQ(t *testing.T) {
	t.Parallel()
	tryExamples(t, "NATS_SERVER="+natstest.Run(t).URL(), "DYN_EVENT_PLANE=zmq", "DYN_EVENT_PLANE_HOST=127.0.0.1")
}

func TestExamplesWithoutServer(t *testing.T) {
	t.Parallel()
	tryExamples(t, "DYN_DISCOVERY_BACKEND=file", "DYN_FILE_KV="+filepath.Join(t.TempDir(), "kv"), "DYN_EVENT_PLANE_HOST=127.0.0.1")
}
