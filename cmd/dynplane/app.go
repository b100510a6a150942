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
	"github.com/spf13/pflag"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/backend"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/internal/pprofserver"
	"github.com/dynplane/dynplane/natsconn"
)

const (
	// opTimeout bounds the requests of a command to a server, so that a wrong
	// address ends in an error and not in a command that hangs.
	opTimeout = 15 * time.Second
	// endTimeout bounds how long a command takes to unregister before it exits.
	endTimeout = 5 * time.Second
)

// app is one run of the program: its environment, and the flags that all
// commands share.
type app struct {
	lookup   func(string) (string, bool)
	stdin    io.Reader
	stdout   io.Writer
	stderr   io.Writer
	terminal bool // stdout is a terminal

	stderrTerminal bool

	server   string
	bucket   string
	ttl      time.Duration
	replicas int
	storage  string
	output   string // "", "json" or "table"
	pprof    string // address, or "" for none
	profiles *pprofserver.Server
	usesNATS bool // other than for discovery
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
		return 0 // the reader of stdout has read enough
	}
	a.printError(err)
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.code
	}
	return exitFailure
}

// printError writes err to stderr as one line without control characters, since
// errors quote untrusted input.
func (a *app) printError(err error) {
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
		Short: "Discover inference workers and exchange their events",
		Long: `Discover inference workers and exchange their events.

Workers register endpoints, models and event channels, by default in a NATS
JetStream KV bucket. dynplane lists, watches and creates such registrations, and
publishes and receives events over NATS, over ZMQ or through a ZMQ broker. The
environment variables of NVIDIA Dynamo configure it: DYN_DISCOVERY_BACKEND,
DYN_EVENT_PLANE, DYN_EVENT_PLANE_CODEC, DYN_ZMQ_BROKER_URL, NATS_SERVER and others.

Exit codes: 0 success, 1 failure, 2 usage error, 124 sub --timeout expired.`,
		Example: `  dynplane demo                                    # run the whole system
  dynplane hub                                     # start a NATS server
  dynplane watch channels                          # in another terminal
  dynplane sub dynamo/backend/generate kv-events   # in a third one
  echo '{"n":1}' | dynplane pub dynamo/backend/generate kv-events --linger 5s`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if err := a.checkFlags(); err != nil {
				return err
			}
			return a.startProfiles()
		},
		CompletionOptions:          cobra.CompletionOptions{HiddenDefaultCmd: true},
		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelpCommand())
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", "", "`URL` of the NATS server (default $NATS_SERVER, else "+natsconn.DefaultURL+")")
	flags.StringVar(&a.bucket, "bucket", "dynplane", "JetStream KV bucket of the registrations")
	flags.DurationVar(&a.ttl, "ttl", 10*time.Second, "time that a registration outlives its owner, in whole seconds")
	flags.IntVar(&a.replicas, "replicas", 1, "replicas of the bucket if it is created: 1, 3 or 5")
	flags.StringVar(&a.storage, "storage", "file", "storage of the bucket if it is created: file or memory")
	flags.StringVarP(&a.output, "output", "o", "", "output format, json or table (default of ls, watch, snapshot and sub: table on a terminal, else json)")
	root.AddCommand(
		newDemoCommand(a), newWorkerCommand(a),
		newHubCommand(a),
		newListCommand(a), newWatchCommand(a), newSnapshotCommand(a),
		newRegisterCommand(a), newMirrorCommand(a),
		newPubCommand(a), newSubCommand(a),
		newKVCommand(a),
		newBenchCommand(a),
		newVersionCommand(a),
	)
	return root
}

func unknownCommand(parent *cobra.Command, name string) error {
	if similar := parent.SuggestionsFor(name); len(similar) > 0 {
		return usagef("unknown command %q: did you mean %s? See %s --help", name, strings.Join(similar, " or "), parent.CommandPath())
	}
	return usagef("unknown command %q: see %s --help", name, parent.CommandPath())
}

// flagError returns a usage error in the form of all others. The errors of values
// that do not parse would name functions of strconv.
func flagError(cmd *cobra.Command, err error) error {
	invalid, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return usagef("%w: see %s --help", err, cmd.CommandPath())
	}
	name, value := invalid.GetFlag().Name, invalid.GetValue()
	switch invalid.GetFlag().Value.Type() {
	case "duration":
		return usagef("--%s %q: want a duration, such as 1.5s or 2m", name, value)
	case "uint64":
		return usagef("--%s %q: want a whole number, 0 or more", name, value)
	case "int":
		return usagef("--%s %q: want a whole number", name, value)
	case "float64":
		return usagef("--%s %q: want a number", name, value)
	}
	return usagef("--%s %q: %w", name, value, invalid.Unwrap())
}

// newHelpCommand returns a help command that, unlike cobra's, fails for an
// unknown command.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Print the help of a command",
		Example: "  dynplane help pub",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("unknown command %q: see dynplane --help", strings.Join(args, " "))
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
		return usagef("--bucket %q: want only letters, digits, _ and -", a.bucket)
	}
	if a.replicas != 1 && a.replicas != 3 && a.replicas != 5 {
		return usagef("--replicas %d: want 1, 3 or 5", a.replicas)
	}
	if a.storage != "file" && a.storage != "memory" {
		return usagef("--storage %q: want file or memory", a.storage)
	}
	if _, err := natsconn.FromEnv(a.onlyServer); err != nil {
		return usagef("--server %s", strings.TrimPrefix(err.Error(), "natsconn: NATS_SERVER "))
	}
	return a.checkPprof()
}

func notInBucketName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
}

// onlyServer is a lookup function whose only variable is NATS_SERVER, set to
// --server.
func (a *app) onlyServer(name string) (string, bool) {
	if name != "NATS_SERVER" || a.server == "" {
		return "", false
	}
	return a.server, true
}

// env is the lookup function of the environment, which --server overrides.
func (a *app) env(name string) (string, bool) {
	if server, ok := a.onlyServer(name); ok {
		return server, true
	}
	return a.lookup(name)
}

// logger returns a logger that writes warnings and errors to stderr.
func (a *app) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// discover opens the discovery backend of the environment and the flags.
func (a *app) discover(ctx context.Context) (*discovery.Client, error) {
	return a.discoverIn(ctx, "")
}

// discoverIn opens the discovery backend with that name; the empty name means
// that of the environment.
func (a *app) discoverIn(ctx context.Context, name string) (*discovery.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if name == "" {
		var err error
		if name, err = backend.Name(a.env); err != nil {
			return nil, err
		}
	}
	if name == backend.Memory {
		return nil, usagef("%s %s: this store is in the memory of one process, and this command would be alone in it: want nats, file, etcd or kubernetes", backend.Variable, name)
	}
	if a.server != "" && name != backend.NATS && !a.usesNATS {
		return nil, usagef("--server %q: the URL of a NATS server, which this command does not use with %s %s: omit it, or select the store nats", a.server, backend.Variable, name)
	}
	client, err := backend.Open(ctx, a.env, backend.Options{
		Name: name,
		Bucket: natskv.Options{
			Bucket: a.bucket, TTL: a.ttl,
			Replicas: a.replicas, Memory: a.storage == "memory",
		},
		Logger: a.logger(),
	})
	if isUnreachable(err) && name == backend.NATS {
		err = fmt.Errorf("%w; registrations are looked up in NATS: %s selects another store, %s, %s or %s", hint(err), backend.Variable, backend.File, backend.Etcd, backend.Kubernetes)
	}
	return client, err
}

// unanswered explains the error of a listing that has taken longer than opTimeout.
func unanswered(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the discovery store has not answered within %v: %w", opTimeout, err)
	}
	return err
}

// hint adds the remedy to the error of a NATS server that cannot be reached.
func hint(err error) error {
	if isUnreachable(err) {
		return fmt.Errorf("%w (NATS_SERVER or --server names another server, dynplane hub starts one)", err)
	}
	return err
}

func isUnreachable(err error) bool {
	return errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout)
}

// shutdown shuts down a client of discovery or of the event plane, which
// unregisters what it has registered, even if ctx is done already.
func (a *app) shutdown(ctx context.Context, client interface{ Shutdown(context.Context) error }) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	return client.Shutdown(ctx)
}
