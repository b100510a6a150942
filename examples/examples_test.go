// Package examples_test builds the example programs, runs them together, and
// compares the snippets of README.md with them.
package examples_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// programs is the directory that TestMain builds the programs in.
var programs string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if programs, err = os.MkdirTemp("", "dynplane-examples-"); err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(programs) }()
	if out, err := exec.Command("go", "build", "-o", programs, "./publisher", "./subscriber", "./router").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go build: %w: %s", err, out)
	}
	code = m.Run()
	return code, goleak.Find(natstest.IgnoreServer())
}

func TestExamplesOverNATS(t *testing.T) {
	t.Parallel()
	tryExamples(t, "NATS_SERVER="+natstest.Run(t).URL())
}

// tryExamples runs two publishers, a subscriber and a router with env as their
// environment, and stops the publishers one after the other.
func tryExamples(t *testing.T, env ...string) {
	t.Helper()
	subscriber, router := start(t, env, "subscriber"), start(t, env, "router")
	publishers := []*program{start(t, env, "publisher"), start(t, env, "publisher")}
	var ids []string
	for _, p := range publishers {
		id := p.await(`^worker ([0-9a-f]+): publishing$`)[1]
		ids = append(ids, id)
		subscriber.await(`^worker ` + id + `: event \d+, missed 0, stored \[\d+\], removed \[\d+\]$`)
		router.await(`^added dynamo/backend/generate/` + id + `$`)
	}
	router.await(`^synced$`)
	router.await(`^prompt goes to worker (` + strings.Join(ids, "|") + `): [1-8] of 8 blocks cached, event \d+$`)

	publishers[0].interrupt()
	router.await(`^removed dynamo/backend/generate/` + ids[0] + `$`)
	router.awaitLast(`^prompt goes to worker ` + ids[1] + `:`)
	publishers[1].interrupt()
	router.awaitLast(`^prompt waits for a worker$`)
	subscriber.interrupt()
	router.interrupt()
	if lost := regexp.MustCompile(`(?m)^.*missed [1-9].*$`).FindString(subscriber.stdout.String()); lost != "" {
		t.Errorf("the subscriber printed %q, want no missed event", lost)
	}
}

// program is a running example.
type program struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr logtest.Buffer
	ended          chan struct{}
}

func start(t *testing.T, env []string, name string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(filepath.Join(programs, name)), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState has the outcome
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("%s\nstdout:\n%sstderr:\n%s", name, &p.stdout, &p.stderr)
		}
	})
	return p
}

// await waits for a line of stdout that matches, and returns its submatches.
func (p *program) await(line string) (match []string) {
	p.t.Helper()
	pattern := regexp.MustCompile("(?m)" + line)
	waittest.Eventually(p.t, p.cmd.Path+" prints "+line, func() bool {
		match = pattern.FindStringSubmatch(p.stdout.String())
		return match != nil
	})
	return match
}

// awaitLast waits until the last line of stdout matches.
func (p *program) awaitLast(line string) {
	p.t.Helper()
	pattern := regexp.MustCompile(line)
	waittest.Eventually(p.t, p.cmd.Path+" last prints "+line, func() bool {
		lines := strings.Split(strings.TrimSpace(p.stdout.String()), "\n")
		return pattern.MatchString(lines[len(lines)-1])
	})
}

// interrupt sends SIGINT, which must end the program without an error.
func (p *program) interrupt() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.ended:
	case <-time.After(waittest.Patience):
		p.t.Fatalf("%s runs on after SIGINT", p.cmd.Path)
	}
	if state := p.cmd.ProcessState; !state.Success() || p.stderr.String() != "" {
		p.t.Errorf("%s: %v, stderr %q, want success and no errors", p.cmd.Path, state, &p.stderr)
	}
}
