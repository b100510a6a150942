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

// workerPatience bounds how long a worker takes to exit after its stdin is closed.
const workerPatience = 10 * time.Second

// demoWorker is a worker in a process of its own.
type demoWorker struct {
	number int
	cmd    *exec.Cmd
	stdout io.Reader

	channel   discovery.ID // zero until the worker has printed it
	announced bool         // the channel is in discovery
	received  bool         // an event has arrived
}

// String returns the name of the worker in the transcript.
func (w *demoWorker) String() string {
	return fmt.Sprintf("worker %d", w.number)
}

// startWorker starts this program as a worker. When ctx is done, or if this process
// dies, the worker's stdin ends, and with it the worker.
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

// inheritedEnv returns the environment without the variables that configure
// discovery, transports and NATS.
func inheritedEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "DYN_") || strings.HasPrefix(entry, "NATS_")
	})
}

// follow sends the worker's channel and its exit.
func (d *demo) follow(ctx context.Context, w *demoWorker) {
	lines := bufio.NewScanner(w.stdout)
	for lines.Scan() {
		id, err := discovery.ParseID(discovery.KindEventChannel, lines.Text())
		if err != nil {
			d.send(ctx, failed{err})
			continue
		}
		d.send(ctx, announced{w, id})
	}
	_ = w.cmd.Wait() // ProcessState has the outcome
	d.send(ctx, exited{w})
}
