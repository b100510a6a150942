package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/eventplane"
)

func newHubCommand(a *app) *cobra.Command {
	var listen, storeDir string
	cmd := &cobra.Command{
		Use:   "hub",
		Short: "Run a NATS server with JetStream for trials",
		Long: `Run a NATS server with JetStream in this process, which is all that discovery and
events require on one machine. It prints its URL when it is ready and runs until it
is interrupted. Clients connect without a password.`,
		Example: `  dynplane hub
  dynplane hub --listen 127.0.0.1:0 --store-dir /var/lib/dynplane`,
		Args: argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"server", "bucket", "ttl", "replicas", "storage"} {
				if cmd.Flags().Changed(name) {
					return usagef("--%s: the hub is a server without a bucket of its own: give it to the clients instead", name)
				}
			}
			return a.hub(cmd.Context(), listen, storeDir)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:4222", "`HOST:PORT` to listen on; port 0 selects a free one")
	cmd.Flags().StringVar(&storeDir, "store-dir", "", "`DIRECTORY` of the store (default a temporary one, removed on exit)")
	a.pprofFlag(cmd)
	return cmd
}

// hub runs a server until ctx is done.
func (a *app) hub(ctx context.Context, listen, storeDir string) (err error) {
	host, port, err := parseListen(listen)
	if err != nil {
		return err
	}
	h, err := startHub(hubOptions{host: host, port: port, storeDir: storeDir, log: a.logger()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if host, err = a.reachableHost(host); err != nil {
		return err
	}
	if err := a.printHub(h.url(host)); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (a *app) printHub(url string) error {
	if a.output == "json" {
		return a.writeJSON(struct {
			URL string `json:"url"`
		}{url})
	}
	_, err := fmt.Fprintln(a.stdout, url)
	return err
}

func parseListen(listen string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, usagef("--listen %q: want HOST:PORT, such as 127.0.0.1:4222", listen)
	}
	if text == "-1" { // a free port, in the syntax of the NATS server
		text = "0"
	}
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, usagef("--listen %q: port %q: want 0 (a free port) to 65535", listen, text)
	}
	return host, int(number), nil
}

// reachableHost returns host, or the address of this machine if host is a
// wildcard, to which clients cannot connect.
func (a *app) reachableHost(host string) (string, error) {
	ip, err := netip.ParseAddr(host)
	if host == "" || err == nil && ip.IsUnspecified() {
		return eventplane.HostFromEnv(a.lookup)
	}
	return host, nil
}

type hubOptions struct {
	host     string
	port     int    // 0 means a free one
	storeDir string // "" means a temporary directory
	log      *slog.Logger
}

// hub is a NATS server with JetStream.
type hub struct {
	server    *server.Server
	temporary string // store directory to remove; may be empty
}

// startHub starts a server and returns when JetStream is ready.
func startHub(o hubOptions) (*hub, error) {
	h := &hub{}
	if o.storeDir == "" {
		dir, err := os.MkdirTemp("", "dynplane-hub-")
		if err != nil {
			return nil, fmt.Errorf("hub: store directory: %w", err)
		}
		o.storeDir, h.temporary = dir, dir
	}
	if err := h.start(o); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *hub) start(o hubOptions) (err error) {
	if o.port == 0 {
		o.port = server.RANDOM_PORT
	}
	h.server, err = server.NewServer(&server.Options{
		ServerName: "dynplane-hub", Host: o.host, Port: o.port,
		JetStream: true, StoreDir: o.storeDir, NoSigs: true,
	})
	if err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	log := &serverLog{log: o.log}
	h.server.SetLoggerV2(log, false, false, false)
	// Start returns when the server listens, or has failed and logged the cause.
	h.server.Start()
	err = log.fatalError()
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("hub: %w (use --listen with another address; port 0 selects a free one)", err)
	}
	if err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	const patience = 10 * time.Second
	if !h.server.ReadyForConnections(patience) || !h.server.JetStreamEnabled() {
		return fmt.Errorf("hub: not ready within %v", patience)
	}
	return nil
}

// url returns the URL of the server for clients that reach it as host.
func (h *hub) url(host string) string {
	port := ""
	if addr, ok := h.server.Addr().(*net.TCPAddr); ok {
		port = strconv.Itoa(addr.Port)
	}
	return (&url.URL{Scheme: "nats", Host: net.JoinHostPort(host, port)}).String()
}

// Close stops the server and removes its temporary directory.
func (h *hub) Close() error {
	if h.server != nil {
		h.server.Shutdown()
		h.server.WaitForShutdown()
	}
	if h.temporary == "" {
		return nil
	}
	if err := os.RemoveAll(h.temporary); err != nil {
		return fmt.Errorf("hub: store directory: %w", err)
	}
	return nil
}

// serverLog logs the server's warnings and errors, and keeps the error that ended
// the server, which Start does not return.
type serverLog struct {
	log *slog.Logger

	mu    sync.Mutex
	fatal error
}

func (l *serverLog) fatalError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

// Fatalf implements server.Logger. It keeps the error among the values, if there
// is one, rather than the text around it.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fatal = fmt.Errorf(format, v...)
	for _, value := range v {
		if err, ok := value.(error); ok {
			l.fatal = err
		}
	}
}

// Errorf implements server.Logger.
func (l *serverLog) Errorf(format string, v ...any) {
	l.log.Error("hub: NATS server error", "message", fmt.Sprintf(format, v...))
}

// Warnf implements server.Logger.
func (l *serverLog) Warnf(format string, v ...any) {
	l.log.Warn("hub: NATS server warning", "message", fmt.Sprintf(format, v...))
}

// Noticef implements server.Logger.
func (*serverLog) Noticef(string, ...any) {}

// Debugf implements server.Logger.
func (*serverLog) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (*serverLog) Tracef(string, ...any) {}
