package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/logtest"
)

// tryDemo runs a short demo and checks its summary.
func tryDemo(t *testing.T, transport string) {
	t.Helper()
	t.Parallel()
	var out, transcript logtest.Buffer
	a := &app{lookup: lookupIn(nil), stdout: &out, stderr: &transcript}
	if code := a.run(t.Context(), []string{"demo", "--transport", transport, "--workers", "2", "--duration", "1s", "-o", "json"}); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, transcript.String())
	}
	if lines := strings.Count(out.String(), "\n"); lines != 1 {
		t.Errorf("%d lines on stdout, want 1: %s", lines, out.String())
	}
	dec := json.NewDecoder(strings.NewReader(out.String()))
	dec.DisallowUnknownFields()
	var s struct {
		Transport string  `json:"transport"`
		Workers   int     `json:"workers"`
		Events    int     `json:"events"`
		Rate      float64 `json:"rate"`
		P50       int     `json:"p50_us"`
		P99       int     `json:"p99_us"`
		Missed    *int    `json:"missed"`
		Removed   int     `json:"removed_after_ms"`
		TTL       int     `json:"ttl_ms"`
	}
	if err := dec.Decode(&s); err != nil {
		t.Fatalf("%s: %v", out.String(), err)
	}
	if s.Transport != transport || s.Workers != 2 || s.Events == 0 || s.Rate <= 0 || s.P50 <= 0 || s.P99 < s.P50 ||
		s.Missed == nil || *s.Missed != 0 || s.Removed <= 0 || s.TTL != 2000 {
		t.Errorf("summary %s", out.String())
	}
	for _, want := range []string{"worker 2 (pid", "receives from worker 1", "kill -9 worker 2", "worker 2 removed"} {
		if !strings.Contains(transcript.String(), want) {
			t.Errorf("%q is not in the transcript:\n%s", want, transcript.String())
		}
	}
}

func TestDemoNATS(t *testing.T) { tryDemo(t, "nats") }

// demoProcess is a demo in a process of its own, which receives from all workers.
type demoProcess struct {
	cmd     *exec.Cmd
	workers []int // pids
	stdout  *bufio.Reader
	stderr  io.Reader
}

func startDemo(t *testing.T) *demoProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &demoProcess{cmd: exec.CommandContext(t.Context(), self, "demo", "--workers", "2", "--duration", "1h")}
	p.cmd.Args[0] = "dynplane" // selects the program in TestMain
	// Neither the demo nor its workers may use these variables.
	p.cmd.Env = append(os.Environ(), "DYN_DISCOVERY_BACKEND=mem", "DYN_EVENT_PLANE=kafka", "NATS_SERVER=nats://127.0.0.1:1",
		"TMPDIR="+t.TempDir()) // SIGKILL leaves a store there
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(out)
	if p.stderr, err = p.cmd.StderrPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		line, err := p.stdout.ReadString('\n')
		if err != nil {
			t.Fatalf("the transcript ends: %v, %q", err, line)
		}
		if _, rest, ok := strings.Cut(line, "(pid "); ok {
			number, _, _ := strings.Cut(rest, ")")
			pid, err := strconv.Atoi(number)
			if err != nil {
				t.Fatalf("pid in %q: %v", line, err)
			}
			p.workers = append(p.workers, pid)
		}
		if strings.Contains(line, "all 2 workers are connected") {
			return p
		}
	}
}

// end waits until the demo and all its workers have exited: as long as one of them
// runs, stderr is open.
func (p *demoProcess) end(t *testing.T) (code int, stdout, stderr string) {
	t.Helper()
	late := time.AfterFunc(time.Minute, func() {
		for _, pid := range append(p.workers, p.cmd.Process.Pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		t.Error("the demo or one of its workers still runs after a minute")
	})
	defer late.Stop()
	var out, errs []byte
	var reading sync.WaitGroup
	reading.Go(func() { out, _ = io.ReadAll(p.stdout) })
	reading.Go(func() { errs, _ = io.ReadAll(p.stderr) })
	reading.Wait()
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode(), string(out), string(errs)
}

func TestDemoEndsEarly(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			p := startDemo(t)
			if err := p.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			code, out, errs := p.end(t)
			if sig != syscall.SIGKILL && (code != 0 || !strings.Contains(out, "missed     0") || errs != "") {
				t.Errorf("exit code %d, stdout:\n%sstderr:\n%s", code, out, errs)
			}
		})
	}
}

// The demo fails if a worker dies that it has not killed, and stops the others.
func TestDemoLosesWorker(t *testing.T) {
	t.Parallel()
	p := startDemo(t)
	if err := syscall.Kill(p.workers[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	code, _, errs := p.end(t)
	if code != exitFailure || !strings.Contains(errs, "exited early: signal: killed") {
		t.Errorf("exit code %d, stderr:\n%s", code, errs)
	}
}

func TestDemoUsage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--transport kafka":             "want nats, zmq or broker",
		"--workers 0":                   "want 1 to 50",
		"--duration 0s":                 "want more than 0",
		"--server nats://127.0.0.1:422": "starts its own server",
		"now":                           "want dynplane demo",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			var errs bytes.Buffer
			a := &app{lookup: lookupIn(nil), stdout: io.Discard, stderr: &errs}
			if code := a.run(t.Context(), append([]string{"demo"}, strings.Fields(args)...)); code != exitUsage ||
				!strings.Contains(errs.String(), want) {
				t.Errorf("exit code %d, %q: want %d, %q", code, errs.String(), exitUsage, want)
			}
		})
	}
}

func TestDemoVerdict(t *testing.T) {
	t.Parallel()
	ms := int64(2100)
	for _, c := range []struct {
		name        string
		summary     summary
		interrupted bool
		want        string // in the error; "" is none
	}{
		{"good", summary{RemovedAfterMS: &ms}, false, ""},
		{"missed", summary{RemovedAfterMS: &ms, Missed: 3}, false, "3 events were missed"},
		{"not removed", summary{}, false, "worker 2 was not removed within 12s"},
		{"interrupted before the removal", summary{}, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := &demo{ttl: demoTTL, killed: &demoWorker{number: 2}, interrupted: c.interrupted}
			err := d.verdict(c.summary)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestTally(t *testing.T) {
	t.Parallel()
	var y tally
	y.add(7, 2) // before the clock starts
	y.restart()
	for i := range int64(200) {
		y.add(200-i, 0)
	}
	got := y.sum()
	if got.events != 200 || got.missed != 2 || got.p50 != 100 || got.p99 != 198 {
		t.Errorf("got %+v, want 200 events, 2 missed, p50 100, p99 198", got)
	}
}
