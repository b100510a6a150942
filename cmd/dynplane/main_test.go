package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// checked runs tests and then checks for goroutines that they left behind.
type checked struct{ m *testing.M }

func (c checked) Run() int {
	code := c.m.Run()
	if err := goleak.Find(natstest.IgnoreServer()); err != nil && code == 0 {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func TestMain(m *testing.M) {
	testscript.Main(checked{m}, map[string]func(){"dynplane": main})
}

// TestScripts runs the program like its users, each script on a NATS server of its
// own. In addition to testscript's commands, scripts have
//
//	code N COMMAND...        runs a command, which must exit with N
//	await PATTERN FILE       waits until a file has a line that matches
//	listed PATTERN WHAT...   waits until dynplane ls -o json prints a match
//	put KEY FILE             writes to the bucket as another client does
//	send SUBJECT FILE        publishes each line on a NATS subject
//	fetch PATTERN FILE TO    downloads the URL in a file that matches
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			tb, ok := env.T().(testing.TB)
			if !ok {
				return errors.New("the script's T is no testing.TB")
			}
			env.Setenv("NATS_SERVER", natstest.Run(tb).URL())
			env.Setenv("DYN_EVENT_PLANE_HOST", "127.0.0.1")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": runForCode, "await": await, "listed": listed, "put": put, "send": send, "fetch": fetch,
		},
	})
}

func runForCode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func await(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[0])
	waittest.Eventually(ts, args[1]+" matches "+args[0], func() bool {
		data, err := os.ReadFile(ts.MkAbs(args[1]))
		return err == nil && pattern.Match(data)
	})
}

func listed(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[0])
	waittest.Eventually(ts, "ls "+strings.Join(args[1:], " ")+" prints "+args[0], func() bool {
		err := ts.Exec("dynplane", append([]string{"ls", "-o", "json"}, args[1:]...)...)
		return err == nil && pattern.MatchString(ts.ReadFile("stdout"))
	})
}

func put(ts *testscript.TestScript, _ bool, args []string) {
	nc, err := nats.Connect(ts.Getenv("NATS_SERVER"))
	ts.Check(err)
	defer nc.Close()
	_, err = nc.Request("dynplane.entry.dynplane."+args[0], []byte(ts.ReadFile(args[1])), waittest.Patience)
	ts.Check(err)
}

func send(ts *testscript.TestScript, _ bool, args []string) {
	nc, err := nats.Connect(ts.Getenv("NATS_SERVER"))
	ts.Check(err)
	defer nc.Close()
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		ts.Check(nc.Publish(args[0], []byte(line)))
	}
	ts.Check(nc.Flush())
}

func fetch(ts *testscript.TestScript, _ bool, args []string) {
	url := regexp.MustCompile(args[0]).FindString(ts.ReadFile(args[1]))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	ts.Check(err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), body, 0o600))
}

// outcome is the result of a command line that ran in this process.
type outcome struct {
	code           int
	stdout, stderr string
}

func runHere(t *testing.T, env map[string]string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{
		lookup: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		stdin:  strings.NewReader(""), stdout: &stdout, stderr: &stderr,
	}
	code := a.run(t.Context(), args)
	return outcome{code, stdout.String(), stderr.String()}
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ args, want string }{
		{"frobnicate", `"frobnicate": see`},
		{"list endpoints", `"list": did you mean ls?`},
		{"snapshots", `"snapshots": did you mean snapshot?`},
		{"help frobnicate", `"frobnicate"`},
		{"ls", "endpoints|models|channels|sources"},
		{"ls foo", `"foo": want endpoints, models, channels or sources`},
		{"ls endpoints a b", "3 arguments"},
		{"ls endpoints a//b", `"a//b": want NS`},
		{"ls endpoints a/b/c/d", "want NS"},
		{"ls --nope endpoints", "--nope"},
		{"ls endpoints -o yaml", `"yaml": want json or table`},
		{"ls endpoints --ttl 500ms", "--ttl 500ms"},
		{"ls endpoints --ttl soon", `--ttl "soon": want a duration`},
		{"ls endpoints --bucket a.b", `--bucket "a.b"`},
		{"ls endpoints --server http://x", `--server "http://x": wrong scheme: want nats://HOST`},
		{"ls endpoints --server nats://u:p@", `--server "nats://xxxxx@": no host`},
		{"watch foo", `"foo"`},
		{"watch", "0 arguments"},
		{"register", "endpoint, model, channel or source"},
		{"register foo", `"foo": want endpoint, model, channel or source`},
		{"register endpoint ns/c --tcp h:1", "want NS/COMP/NAME"},
		{"register endpoint ns/c/e", "--tcp is missing"},
		{"register endpoint ns/c/e --tcp h:1 --device tpu", `--device "tpu": want cpu or cuda`},
		{"register endpoint ns/c/e --tcp h:1 --id 18446744073709551616", `"18446744073709551616"`},
		{"register endpoint ns/c/e --tcp h:1 --id -1", `--id "-1": want 0 to 18446744073709551615`},
		{"register model ns/c/e", "--card is missing"},
		{"register channel ns/c", "1 argument: want"},
		{"register channel ns/c t", "want one of --zmq"},
		{"register channel ns/c t --zmq tcp://h:1 --nats-prefix p", "want one of --zmq"},
		{"register channel ns/c t --xsub tcp://h:1", "--xsub with --xpub"},
		{"register channel ns/c t --zmq h:1", `"h:1": want tcp://`},
		{"register channel ns/c t --zmq tcp://h:0", "want tcp://"},
		{"register channel ns/c t --zmq tcp://0.0.0.0:1", "clients can reach"},
		{"register channel ns/c t --nats-prefix a..>", "--nats-prefix"},
		{"register endpoint ns/c/e --tcp notanaddress", "--tcp"},
		{"ls endpoints --replicas 2", "--replicas 2"},
		{"ls endpoints --replicas two", `--replicas "two": want a whole number`},
		{"ls endpoints --storage tape", "--storage"},
		{"watch endpoints --pprof 6060", `--pprof "6060": want HOST:PORT`},
		{"ls endpoints --pprof :6060", "--pprof"},
		{"pub ns/c", "1 argument: want"},
		{"pub ns/c/e/x t", `"ns/c/e/x"`},
		{"pub ns/c t --rate -1", "--rate -1"},
		{"pub ns/c t --rate NaN", "--rate NaN"},
		{"pub ns/c t --rate fast", `--rate "fast": want a number`},
		{"pub ns/c t --count -1", `--count "-1": want a whole number, 0 or more`},
		{"pub ns/c t --raw --count 2", "--raw"},
		{"pub ns/c t --linger -1s", "--linger"},
		{"pub ns/c t --wait-subscribers -1", "--wait-subscribers -1"},
		{"pub ns/c t --history -1", "--history -1"},
		{"sub ns/c t --timeout -1s", "--timeout"},
		{"sub ns/c t extra", "3 arguments"},
		{"kv list", `"list"`},
		{"kv ls", "0 arguments: want"},
		{"kv ls ns", `"ns": want NS/COMP/EP`},
		{"kv watch ns/c/e/x", `"ns/c/e/x": want NS/COMP/EP`},
		{"kv dump ns/c/ep", `"ns/c/ep": want NS/COMP/EP/ID`},
		{"kv dump ns/c/e/xyz", "want NS/COMP/EP/ID"},
		{"snapshot endpoints", "1 argument: want"},
		{"mirror", `--from "": want one of nats, mem, file, etcd, kubernetes`},
		{"mirror --from nats", `--to "": want one of nats, mem, file, etcd, kubernetes`},
		{"mirror --from consul --to nats", `--from "consul": want one of nats, mem, file, etcd, kubernetes`},
		{"mirror --from nats --to nats", "both nats"},
		{"mirror --from nats --to mem foo", `"foo": want endpoints`},
		{"mirror --from nats --to mem endpoints a//b", `"a//b": want NS`},
		{"mirror --from nats --to mem endpoints a b", "3 arguments"},
		{"version now", "1 argument: want"},
	} {
		t.Run(test.args, func(t *testing.T) {
			t.Parallel()
			got := runHere(t, nil, strings.Fields(test.args)...)
			if got.code != exitUsage {
				t.Errorf("exit code %d, want %d", got.code, exitUsage)
			}
			checkError(t, got, test.want)
		})
	}
}

func checkError(t *testing.T, got outcome, want string) {
	t.Helper()
	if got.stdout != "" {
		t.Errorf("stdout %q, want nothing", got.stdout)
	}
	if strings.Count(got.stderr, "\n") != 1 || !strings.HasPrefix(got.stderr, "dynplane: ") || !strings.Contains(got.stderr, want) {
		t.Errorf("stderr %q, want one line with %q", got.stderr, want)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, command := range []string{
		"", "demo", "hub", "ls", "watch", "register", "register endpoint", "register model",
		"register channel", "mirror", "snapshot", "pub", "sub", "kv", "kv ls", "kv watch", "kv dump", "version", "help",
	} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			got := runHere(t, nil, append(strings.Fields(command), "--help")...)
			if got.code != 0 || got.stderr != "" || !strings.Contains(got.stdout, "Examples:\n  ") {
				t.Errorf("%+v, want help with examples", got)
			}
			if again := runHere(t, nil, append([]string{"help"}, strings.Fields(command)...)...); again != got {
				t.Errorf("help COMMAND prints %+v, want the output of COMMAND --help", again)
			}
		})
	}
}

func TestNoServer(t *testing.T) {
	t.Parallel()
	server := fmt.Sprintf("nats://127.0.0.1:%d", natstest.FreePort(t))
	for _, args := range []string{
		"ls endpoints", "watch models", "register endpoint ns/c/e --tcp h:1", "pub ns/c t", "sub ns/c t",
		"snapshot", "mirror --from file --to nats",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			got := runHere(t, map[string]string{"DYN_FILE_KV": t.TempDir()}, append(strings.Fields(args), "--server", server)...)
			if got.code != exitFailure || !strings.Contains(got.stderr, server) {
				t.Errorf("%+v, want a failure that names %s", got, server)
			}
			checkError(t, got, "dynplane hub")
		})
	}
}

func TestBadEnvironment(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args, name, want string
	}{
		{"pub ns/c t", "DYN_EVENT_PLANE", `DYN_EVENT_PLANE "kafka": want nats or zmq`},
		{"pub ns/c t", "DYN_DISCOVERY_BACKEND", `DYN_DISCOVERY_BACKEND "kafka"`},
		{"sub ns/c t", "DYN_DISCOVERY_BACKEND", `DYN_DISCOVERY_BACKEND "kafka"`},
		{"ls endpoints", "DYN_EVENT_PLANE_WIRE", `DYN_EVENT_PLANE_WIRE "kafka": want gen2 or gen1`},
		{"sub ns/c t", "DYN_EVENT_PLANE_WIRE", `DYN_EVENT_PLANE_WIRE "kafka": want gen2 or gen1`},
	} {
		env := map[string]string{"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": t.TempDir()}
		env[test.name] = "kafka"
		got := runHere(t, env, strings.Fields(test.args)...)
		if got.code != exitFailure {
			t.Errorf("exit code %d, want %d", got.code, exitFailure)
		}
		checkError(t, got, test.want)
	}
}

// --server is refused if NATS is not used, and never ignored.
func TestServerWithoutNATS(t *testing.T) {
	t.Parallel()
	env := map[string]string{"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": t.TempDir()}
	got := runHere(t, env, "ls", "endpoints", "--server", "nats://127.0.0.1:1")
	if got.code != exitUsage {
		t.Errorf("exit code %d, want %d", got.code, exitUsage)
	}
	checkError(t, got, "omit it, or select the store nats")
}

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestClosedOutputIsQuiet(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	a := &app{lookup: func(string) (string, bool) { return "", false }, stdout: closedPipe{}, stderr: &stderr}
	if code := a.run(t.Context(), []string{"version"}); code != 0 || stderr.Len() > 0 {
		t.Errorf("exit code %d, stderr %q, want neither", code, &stderr)
	}
}
