//go:build cgo && !nozmq

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/kvevents"
)

// served is a worker of kv serve that runs in this process.
type served struct {
	env   map[string]string
	stdin *io.PipeWriter
	out   logtest.Buffer
	errs  logtest.Buffer
	stop  context.CancelFunc
	done  chan int
}

// serveKV runs kv serve until it has registered everything.
func serveKV(t *testing.T, args ...string) *served {
	t.Helper()
	s := &served{done: make(chan int, 1), env: map[string]string{
		"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": t.TempDir(), "DYN_EVENT_PLANE": "zmq", "DYN_EVENT_PLANE_HOST": "127.0.0.1",
		"DYN_TCP_RESPONSE_STREAM_HOST": "127.0.0.1", "DYN_TCP_RPC_HOST": "127.0.0.1",
	}}
	ready := filepath.Join(t.TempDir(), "ready")
	var stdin *io.PipeReader
	stdin, s.stdin = io.Pipe()
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	a := &app{lookup: lookupOf(s.env), stdin: stdin, stdout: &s.out, stderr: &s.errs}
	go func() {
		s.done <- a.run(ctx, append([]string{"kv", "serve", "ns/c/e", "--ready-file", ready}, args...))
	}()
	t.Cleanup(func() {
		_ = s.stdin.Close() // ends the reader of stdin
		stop()
	})
	waittest.Eventually(t, "the worker is registered", func() bool {
		_, err := os.Stat(ready)
		return err == nil || len(s.done) > 0
	})
	return s
}

// write writes lines to stdin. Each has been read when write returns, and all but the
// last have been published.
func (s *served) write(t *testing.T, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if _, err := io.WriteString(s.stdin, l+"\n"); err != nil {
			t.Error(err)
		}
	}
}

// end ends the worker, which must leave nothing.
func (s *served) end(t *testing.T) {
	t.Helper()
	s.stop()
	if code := <-s.done; code != 0 || s.errs.String() != "" {
		t.Errorf("exit code %d: %s", code, s.errs.String())
	}
	for _, kind := range []string{"endpoints", "models", "channels", "sources"} {
		if got := runHere(t, s.env, "ls", kind); got.stdout != "" {
			t.Errorf("left: %s", got.stdout)
		}
	}
}

// awaitKV waits for the output of kv ls.
func (s *served) awaitKV(t *testing.T, want string) {
	t.Helper()
	waittest.Eventually(t, "kv ls prints "+want, func() bool { return runHere(t, s.env, "kv", "ls", "ns/c/e").stdout == want })
}

func TestKVServe(t *testing.T) {
	t.Parallel()
	s := serveKV(t, "--worker", "42", "--ranks", "2", "--block-size", "2", "--model", "llama", "--call-home", "127.0.0.0/8")
	s.write(t,
		`{"type":"BlockStored","block_hashes":[1,-2,3],"parent_block_hash":null,"token_ids":[5,6,7,8,9,10],"block_size":2,"medium":"GPU"}`,
		``,
		`{"type":"BlockRemoved","block_hashes":[3],"future":true}`,
		`{"worker_id":7,"storage_tier":"disk","event":{"event_id":99,"dp_rank":1,"data":{"stored":{"parent_hash":8,"blocks":[{"block_hash":9,"tokens_hash":1}]}}}}`,
		`{"type":"BlockStored","block_hashes":[4],"token_ids":[5,6],"block_size":2,"data_parallel_rank":1}`,
	)
	s.awaitKV(t, `{"worker_id":42,"dp_rank":0,"blocks":2,"trust":"live"}`+"\n"+`{"worker_id":42,"dp_rank":1,"blocks":2,"trust":"live"}`+"\n")
	got := runHere(t, s.env, "kv", "dump", "ns/c/e/2a")
	first := fmt.Sprintf(`{"block_hash":1,"tokens_hash":%d,`, kvevents.AppendTokensHashes(nil, []uint32{5, 6}, 2, kvevents.TokensHashOptions{})[0])
	if !strings.Contains(got.stdout, first) || !strings.Contains(got.stdout, `"block_hash":18446744073709551614,`) ||
		!strings.Contains(got.stdout, `"storage_tier":"disk"`) || strings.Contains(got.stdout, `"worker_id":7`) {
		t.Errorf("dump %+v", got)
	}
	if got := runHere(t, s.env, "ls", "models"); !strings.Contains(got.stdout, `"kv_cache_block_size":2`) || !strings.Contains(got.stdout, `"data_parallel_size":2`) {
		t.Errorf("models %s", got.stdout)
	}
	s.write(t, `[{"worker_id":42,"event":{"event_id":1,"data":"cleared","dp_rank":0}},{"worker_id":42,"event":{"event_id":1,"data":"cleared","dp_rank":1}}]`)
	_ = s.stdin.Close() // it stays registered
	s.awaitKV(t, `{"worker_id":42,"dp_rank":0,"blocks":0,"trust":"live"}`+"\n"+`{"worker_id":42,"dp_rank":1,"blocks":0,"trust":"live"}`+"\n")
	s.end(t)
	if lines := strings.Count(s.out.String(), "\n"); lines != 2 {
		t.Errorf("printed %q, want the channels of two ranks", s.out.String())
	}
}

func TestKVServeLingers(t *testing.T) {
	t.Parallel()
	s := serveKV(t, "--linger", "1ms")
	_ = s.stdin.Close()
	s.end(t)
}

func TestKVServeRefusesLines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, want string }{
		{`{`, "stdin line 1: want an event in JSON"},
		{`7`, "stdin line 1: want an event with a type, or Dynamo's events"},
		{`{"type":"Nothing"}`, `type "Nothing": want BlockStored, BlockRemoved or AllBlocksCleared`},
		{`{"type":"BlockRemoved"}`, "block_hashes is missing or empty"},
		{`{"type":"BlockRemoved","block_hashes":[1.5]}`, "hash 1.5: want an integer of 64 bits"},
		{`{"type":"BlockRemoved","block_hashes":[1],"data_parallel_rank":1}`, "rank 1: want one below --ranks 1"},
		{`{"type":"BlockStored","block_hashes":[1],"token_ids":[5],"block_size":1}`, "1 blocks cannot be published, because of their block"},
		{`{"worker_id":1}`, "event 1 of 1: "},
		{`{"worker_id":1,"event":{"event_id":1,"data":{"future":1}}}`, "event 1 of 1: "},
	} {
		s := serveKV(t)
		go s.write(t, c.line)
		if code := <-s.done; code != exitFailure || !strings.Contains(s.errs.String(), c.want) {
			t.Errorf("%s: exit code %d: %s, want %s", c.line, code, s.errs.String(), c.want)
		}
	}
}

func TestKVServeUsage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"ns/c":                               "ns/c",
		"ns/c/e --ranks 0":                   "--ranks 0: want 1 to 1024",
		"ns/c/e --block-size 0":              "--block-size 0: want",
		"ns/c/e --linger -1s":                "--linger -1s: want 0 or more",
		"ns/c/e --worker 0":                  "--worker 0: want another id",
		"ns/c/e --call-home 10.0.0.1":        `--call-home "10.0.0.1": want a network`,
		"ns/c/e --card -":                    "--card -: want a file",
		"ns/c/e --model=":                    "--model: want a name",
		"ns/c/e --listen 127.0.0.1:0 ns/c/e": "want",
	} {
		if got := runHere(t, nil, append([]string{"kv", "serve"}, strings.Fields(args)...)...); got.code != exitUsage || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %+v, want %s", args, got, want)
		}
	}
}
