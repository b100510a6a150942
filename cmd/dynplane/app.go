package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/internal/pprofserver"
	"github.com/dynplane/dynplane/natsconn"
)

const (
	// opTimeout bounds what a verb asks of a server: a stranger should see an
	// error, not a verb that hangs.
	opTimeout = 15 * time.Second
	// endTimeout bounds how long a verb takes to unregister on its way out.
	endTimeout = 5 * time.Second
)

// app is one run of the command: its surroundings, and the flags that all verbs
// share.
type app struct {
	lookup   func(string) (string, bool)
	stdin    io.Reader
	stdout   io.Writer
	stderr   io.Writer
	terminal bool // stdout is one

	server   string
	bucket   string
	ttl      time.Duration
	replicas int
	storage  string
	output   string // "", "json" or "table"
	pprof    string // address, or "" for none
	profiles *pprofserver.Server
}

// run runs one command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	err = errors.Join(err, a.stopProfiles())
	if err == nil || errors.Is(err, syscall.EPIPE) {
		return 0 // who closed our output has what they wanted
	}
	a.complain(err)
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.code
	}
	return exitFailure
}

// complain writes err to stderr as one line, whatever is quoted in it.
func (a *app) complain(err error) {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	_, _ = fmt.Fprintf(a.stderr, "dynplane: %s\n", strings.Map(visible, text))
}

func visible(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "dynplane",
		Short: "Find inference workers and hear their events",
		Long: `Find inference workers and hear their events.

Workers register endpoints, models and event channels in a JetStream KV bucket;
dynplane lists, watches and makes such registrations, and publishes and hears
events over NATS, over ZMQ and through a ZMQ broker. The environment variables
of NVIDIA Dynamo's runtime say how: DYN_EVENT_PLANE, DYN_EVENT_PLANE_CODEC,
DYN_ZMQ_BROKER_URL, NATS_SERVER and their like.

Exit codes: 0 done, 1 failed, 2 wrong usage, 124 sub --timeout has passed.`,
		Example: `  dynplane demo                                    # see all of it at work
  dynplane hub                                     # a NATS server to try it on
  dynplane watch channels                          # in another shell
  dynplane sub dynamo/backend/generate kv-events   # in a third
  echo '{"n":1}' | dynplane pub dynamo/backend/generate kv-events --linger 5s`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown verb %q: see dynplane --help", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if err := a.checkFlags(); err != nil {
				return err
			}
			return a.startProfiles()
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w: see %s --help", err, cmd.CommandPath())
	})
	root.SetHelpCommand(newHelpCommand())
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", "", "NATS server (else NATS_SERVER, else "+natsconn.DefaultURL+")")
	flags.StringVar(&a.bucket, "bucket", "dynplane", "JetStream KV bucket of the registrations")
	flags.DurationVar(&a.ttl, "ttl", 10*time.Second, "how long a registration outlives its owner; whole seconds")
	flags.IntVar(&a.replicas, "replicas", 1, "replicas of the bucket, where it is made: 1, 3 or 5")
	flags.StringVar(&a.storage, "storage", "file", "storage of the bucket, where it is made: file or memory")
	flags.StringVarP(&a.output, "output", "o", "", "json or table (ls, watch, snapshot and sub: json in a pipe, else table)")
	root.AddCommand(
		newDemoCommand(a), newWorkerCommand(a),
		newHubCommand(a),
		newListCommand(a), newWatchCommand(a), newSnapshotCommand(a),
		newRegisterCommand(a), newMirrorCommand(a),
		newPubCommand(a), newSubCommand(a),
		newVersionCommand(a),
	)
	return root
}

// newHelpCommand is cobra's, but that it refuses a verb that there is not.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [VERB]",
		Short:   "Help about a verb",
		Example: "  dynplane help pub",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("no help about %q: see dynplane --help", strings.Join(args, " "))
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}

func (a *app) checkFlags() error {
	if a.output != "" && a.output != "json" && a.output != "table" {
		return usagef("-o %q: want json or table", a.output)
	}
	if a.ttl < time.Second || a.ttl%time.Second != 0 {
		return usagef("--ttl %v: want whole seconds, at least 1s", a.ttl)
	}
	if a.bucket == "" || strings.ContainsFunc(a.bucket, notInBucketName) {
		return usagef("--bucket %q: want letters, digits, _ and - alone", a.bucket)
	}
	if a.replicas != 1 && a.replicas != 3 && a.replicas != 5 {
		return usagef("--replicas %d: want 1, 3 or 5", a.replicas)
	}
	if a.storage != "file" && a.storage != "memory" {
		return usagef("--storage %q: want file or memory", a.storage)
	}
	if _, err := natsconn.FromEnv(a.onlyServer); err != nil {
		return usagef("--server: %w", err)
	}
	return a.checkPprof()
}

func notInBucketName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
}

// onlyServer looks a variable up where there is nothing but --server.
func (a *app) onlyServer(name string) (string, bool) {
	if name != "NATS_SERVER" || a.server == "" {
		return "", false
	}
	return a.server, true
}

// env looks a variable up in the environment, over which --server wins.
func (a *app) env(name string) (string, bool) {
	if server, ok := a.onlyServer(name); ok {
		return server, true
	}
	return a.lookup(name)
}

// logger writes warnings to stderr.
func (a *app) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// discover opens the discovery backend of the environment and the flags.
func (a *app) discover(ctx context.Context) (*discovery.Client, error) {
	return a.discoverIn(ctx, "")
}

// discoverIn opens the backend of a name; empty is that of the environment.
func (a *app) discoverIn(ctx context.Context, name string) (*discovery.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	client, err := backend.Open(ctx, a.env, backend.Options{
		Name: name,
		Bucket: natskv.Options{
			Bucket: a.bucket, TTL: a.ttl,
			Replicas: a.replicas, Memory: a.storage == "memory",
		},
		Logger: a.logger(),
	})
	return client, hint(err)
}

// hint adds the remedy to an error that says that no server is there.
func hint(err error) error {
	if errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) {
		return fmt.Errorf("%w (dynplane hub starts a server)", err)
	}
	return err
}

// shutdown ends a client of discovery or of the event plane, which unregisters
// what it has registered, also when ctx is done already.
func (a *app) shutdown(ctx context.Context, client interface{ Shutdown(context.Context) error }) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	return client.Shutdown(ctx)
}
