package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// workerPatience is how long a worker that was told to end may take.
const workerPatience = 10 * time.Second

// demoWorker is a worker in a process of its own.
type demoWorker struct {
	number int
	cmd    *exec.Cmd
	stdout io.Reader

	channel   discovery.ID // zero until the worker has told it
	announced bool         // discovery has it
	heard     bool
}

// String names the worker as the story does.
func (w *demoWorker) String() string {
	return fmt.Sprintf("worker %d", w.number)
}

// startWorker starts this program again. When ctx ends, and also if this
// process dies, the worker's stdin ends, and by that the worker.
func (a *app) startWorker(ctx context.Context, env []string, number int) (*demoWorker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, "worker",
		"--number", strconv.Itoa(number), "--bucket", a.bucket, "--ttl", a.ttl.String())
	cmd.Args[0] = "dynplane"
	cmd.Env = append(inheritedEnv(), env...)
	cmd.Stderr = a.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	cmd.Cancel, cmd.WaitDelay = stdin.Close, workerPatience
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("demo: worker %d: %w", number, err)
	}
	return &demoWorker{number: number, cmd: cmd, stdout: stdout}, nil
}

// inheritedEnv is the environment without what says where peers are and how to
// talk to them.
func inheritedEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "DYN_") || strings.HasPrefix(entry, "NATS_")
	})
}

// follow reports what a worker does until it has ended.
func (d *demo) follow(ctx context.Context, w *demoWorker) {
	lines := bufio.NewScanner(w.stdout)
	for lines.Scan() {
		id, err := discovery.ParseID(discovery.KindEventChannel, lines.Text())
		if err != nil {
			d.note(ctx, failed{err})
			continue
		}
		d.note(ctx, announced{w, id})
	}
	_ = w.cmd.Wait() // ProcessState says how it ended
	d.note(ctx, exited{w})
}
