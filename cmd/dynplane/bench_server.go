package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/internal/latencyproxy"
	"github.com/dynplane/dynplane/natsconn"
)

// benchServerStats are counters of a server. CPUSeconds is that of its process, and
// nil if it is unknown.
type benchServerStats struct {
	CPUSeconds    *float64 `json:"cpu_seconds,omitempty"`
	InMessages    int64    `json:"in_messages"`
	OutMessages   int64    `json:"out_messages"`
	InBytes       int64    `json:"in_bytes"`
	OutBytes      int64    `json:"out_bytes"`
	APIRequests   uint64   `json:"api_requests"`
	APIErrors     uint64   `json:"api_errors"`
	SlowConsumers int64    `json:"slow_consumers"`
}

// since returns the difference from an earlier state.
func (s benchServerStats) since(before benchServerStats) benchServerStats {
	s.InMessages -= before.InMessages
	s.OutMessages -= before.OutMessages
	s.InBytes -= before.InBytes
	s.OutBytes -= before.OutBytes
	s.APIRequests -= before.APIRequests
	s.APIErrors -= before.APIErrors
	s.SlowConsumers -= before.SlowConsumers
	if s.CPUSeconds != nil && before.CPUSeconds != nil {
		cpu := inMillis(*s.CPUSeconds - *before.CPUSeconds)
		s.CPUSeconds = &cpu
	}
	return s
}

// newBenchServerCommand returns the command that bench discovery starts as a
// process: a server that ends with its stdin. It prints its URL, and its counters
// for each line that it reads.
func newBenchServerCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "server",
		Short:   "Run the server of bench discovery",
		Example: "  dynplane bench server",
		Hidden:  true,
		Args:    argCount(0, 0),
		RunE:    func(*cobra.Command, []string) error { return a.benchServer() },
	}
}

func (a *app) benchServer() (err error) {
	h, err := startHub(hubOptions{host: "127.0.0.1", log: a.logger()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := a.writeJSON(h.url("127.0.0.1")); err != nil {
		return err
	}
	// An interrupt of the terminal reaches this process too. It ends after the
	// clients have, with stdin.
	lines := bufio.NewScanner(a.stdin)
	for lines.Scan() {
		v, err := h.server.Varz(nil)
		if err != nil {
			return err
		}
		js, err := h.server.Jsz(nil)
		if err != nil {
			return err
		}
		stats := benchServerStats{
			InMessages: v.InMsgs, OutMessages: v.OutMsgs, InBytes: v.InBytes, OutBytes: v.OutBytes,
			APIRequests: js.API.Total, APIErrors: js.API.Errors, SlowConsumers: v.SlowConsumers,
		}
		if cpu := cpuSeconds(); cpu > 0 {
			stats.CPUSeconds = &cpu
		}
		if err := a.writeJSON(stats); err != nil {
			return err
		}
	}
	return lines.Err()
}

// childServer is a server in a process of its own.
type childServer struct {
	url   string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *json.Decoder
}

func (a *app) startChildServer() (*childServer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	c := &childServer{cmd: exec.Command(self, "bench", "server")}
	c.cmd.Args[0] = "dynplane"
	c.cmd.Env, c.cmd.Stderr = inheritedEnv(), a.stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("bench: server: %w", err)
	}
	c.out = json.NewDecoder(stdout)
	if err := c.out.Decode(&c.url); err != nil {
		return nil, errors.Join(fmt.Errorf("bench: server: %w", err), c.Close())
	}
	return c, nil
}

func (c *childServer) stats(context.Context) (s benchServerStats, err error) {
	if _, err = io.WriteString(c.stdin, "\n"); err == nil {
		err = c.out.Decode(&s)
	}
	if err != nil {
		err = fmt.Errorf("bench: counters of the server: %w", err)
	}
	return s, err
}

// Close ends the server and waits for its process.
func (c *childServer) Close() error {
	_ = c.stdin.Close()
	kill := time.AfterFunc(workerPatience, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("bench: server: %w", err)
	}
	return nil
}

// monitorStats reads the counters of a server from its monitoring address.
func monitorStats(ctx context.Context, url string) (benchServerStats, error) {
	var v struct {
		InMessages    int64 `json:"in_msgs"`
		OutMessages   int64 `json:"out_msgs"`
		InBytes       int64 `json:"in_bytes"`
		OutBytes      int64 `json:"out_bytes"`
		SlowConsumers int64 `json:"slow_consumers"`
	}
	var js struct {
		API struct {
			Total  uint64 `json:"total"`
			Errors uint64 `json:"errors"`
		} `json:"api"`
	}
	for page, into := range map[string]any{"/varz": &v, "/jsz": &js} {
		if err := getJSON(ctx, strings.TrimSuffix(url, "/")+page, into); err != nil {
			return benchServerStats{}, fmt.Errorf("--monitor: %w", err)
		}
	}
	return benchServerStats{
		InMessages: v.InMessages, OutMessages: v.OutMessages, InBytes: v.InBytes, OutBytes: v.OutBytes,
		APIRequests: js.API.Total, APIErrors: js.API.Errors, SlowConsumers: v.SlowConsumers,
	}, nil
}

func getJSON(ctx context.Context, url string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %s", url, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// openServer selects or starts the server, and the proxy before it.
func (b *bench) openServer() (closeAll func() error, err error) {
	var opened []func() error
	closeAll = func() error {
		var errs []error
		for i := range opened {
			errs = append(errs, opened[len(opened)-1-i]())
		}
		return errors.Join(errs...)
	}
	if b.config, err = natsconn.FromEnv(b.app.env); err != nil {
		return nil, err
	}
	b.result.Server = b.config.String()
	switch given, _ := b.app.env("NATS_SERVER"); {
	case given == "" && b.monitor != "":
		return nil, usagef("--monitor %q: want --server too: otherwise the bench starts a server of its own", b.monitor)
	case given == "":
		child, err := b.app.startChildServer()
		if err != nil {
			return nil, err
		}
		opened = append(opened, child.Close)
		b.config, b.stats = natsconn.Config{URL: child.url}, child.stats
		b.result.Server = "a process of its own"
	case b.monitor != "":
		b.stats = func(ctx context.Context) (benchServerStats, error) { return monitorStats(ctx, b.monitor) }
	}
	if b.rtt > 0 {
		proxy, err := b.startProxy()
		if err != nil {
			return nil, errors.Join(err, closeAll())
		}
		opened = append(opened, proxy.Close)
	}
	return closeAll, nil
}

// startProxy puts a proxy between the clients and the server.
func (b *bench) startProxy() (*latencyproxy.Proxy, error) {
	u, err := url.Parse(b.config.URL)
	if err != nil || u.Host == "" || strings.Contains(b.config.URL, ",") {
		return nil, usagef("--rtt: NATS server %s: want one URL", b.config)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "4222")
	}
	proxy, err := latencyproxy.Start(u.Host, b.rtt/2)
	if err != nil {
		return nil, err
	}
	u.Host = proxy.Addr()
	b.config.URL = u.String()
	return proxy, nil
}
