package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/wait"
	"github.com/dynplane/dynplane/kvstate"
	"github.com/dynplane/dynplane/requestplane"
)

// kvServeOptions are the flags of kv serve.
type kvServeOptions struct {
	worker    idFlag
	ranks     uint32
	model     string
	card      string
	blockSize uint32
	listen    string
	callHome  []string
	linger    time.Duration
	lingers   bool
	ready     string
}

func newKVServeCommand(a *app) *cobra.Command {
	var o kvServeOptions
	cmd := &cobra.Command{
		Use:   "serve NS/COMP/EP",
		Short: "Run a worker that publishes the events on stdin",
		Long: `Run a worker: publish the lines of stdin as its KV-cache events, and answer the queries
of routers that start late or have missed events. It registers an endpoint, a model
card, and a channel and a source for each rank, and prints the paths of the channels.
The endpoint refuses requests for inference.

A line is JSON in one of these forms; other fields are ignored. Blank lines are
skipped, and a line that is neither ends the command with an error.

  {"type":"BlockStored","block_hashes":[1,2],"parent_block_hash":null,"token_ids":[5,6,7,8],"block_size":2}
  {"type":"BlockRemoved","block_hashes":[2],"medium":"GPU"}
  {"type":"AllBlocksCleared","data_parallel_rank":1}

are the events of an engine, in the names of vLLM; medium, lora_name and
data_parallel_rank may be added to each. Routers compare token ids with prompts, so
that block_size must be that of --block-size.

  {"worker_id":0,"storage_tier":"device","event":{"event_id":0,"dp_rank":0,"data":{"stored":{"parent_hash":null,
    "blocks":[{"block_hash":1,"tokens_hash":3}]}}}}

is Dynamo's form, as kv dump prints it, on one line; an array of such events is
published at once. The data may also be {"removed":{"block_hashes":[1]}} or "cleared".
The ids of workers and events are replaced.

At the end of stdin the worker stays registered until it is interrupted, or for
--linger. Access to its port is worth something to an attacker: it connects to any
address that a query names, unless --call-home limits these.`,
		Example: `  dynplane kv serve dynamo/backend/generate --model llama < events.jsonl
  dynplane kv dump dynamo/backend/generate/2a | dynplane kv serve dynamo/backend/copy --linger 1m`,
		Args: argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, err := parseScope(args[0], 3)
			if err != nil {
				return err
			}
			o.lingers = cmd.Flags().Changed("linger")
			if err := o.validate(); err != nil {
				return err
			}
			return a.kvServe(cmd.Context(), scope, o)
		},
	}
	flags := cmd.Flags()
	flags.Var(&o.worker, "worker", "`ID` of the worker, in decimal or 0x hex (default random)")
	flags.Uint32Var(&o.ranks, "ranks", 1, "number of data-parallel ranks")
	flags.StringVar(&o.model, "model", "dynplane", "`NAME` of the model")
	flags.StringVar(&o.card, "card", "", "`FILE` with the model's card in JSON, in place of --model and --block-size")
	flags.Uint32Var(&o.blockSize, "block-size", 16, "tokens in a block")
	flags.StringVar(&o.listen, "listen", "", "`HOST:PORT` that answers queries, an IP address or an interface (default $DYN_TCP_RPC_HOST and _PORT)")
	flags.StringSliceVar(&o.callHome, "call-home", nil, "`NETWORK` that answers may be sent to, such as 10.0.0.0/8; repeatable (default any)")
	flags.DurationVar(&o.linger, "linger", 0, "time to stay registered after the end of stdin (default until interrupted)")
	flags.StringVar(&o.ready, "ready-file", "", "`FILE` to create when everything is registered")
	a.pprofFlag(cmd)
	return cmd
}

// maxKVRanks bounds --ranks: each rank has registrations of its own.
const maxKVRanks = 1024

func (o *kvServeOptions) validate() error {
	switch {
	case o.ranks < 1 || o.ranks > maxKVRanks:
		return usagef("--ranks %d: want 1 to %d", o.ranks, maxKVRanks)
	case o.blockSize == 0:
		return usagef("--block-size 0: want the tokens in a block")
	case o.model == "":
		return usagef("--model: want a name")
	case o.linger < 0:
		return usagef("--linger %v: want 0 or more", o.linger)
	case o.worker.given && o.worker.value == 0:
		return usagef("--worker 0: want another id")
	}
	_, err := o.networks()
	return err
}

// networks returns the networks of --call-home.
func (o *kvServeOptions) networks() (networks []netip.Prefix, err error) {
	for _, text := range o.callHome {
		n, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, usagef("--call-home %q: want a network, such as 10.0.0.0/8", text)
		}
		networks = append(networks, n)
	}
	return networks, nil
}

// modelCard returns the card of the worker.
func (a *app) modelCard(ctx context.Context, o kvServeOptions) (any, error) {
	if o.card == "-" {
		return nil, usagef("--card -: want a file: stdin has the events")
	}
	if o.card != "" {
		card, err := a.readJSON(ctx, "--card", o.card)
		return json.RawMessage(card), err
	}
	card := discovery.NewTensorCard(o.model)
	card.KVCacheBlockSize, card.RuntimeConfig.DataParallelSize = o.blockSize, o.ranks
	return card, nil
}

func (a *app) kvServe(ctx context.Context, scope discovery.Scope, o kvServeOptions) error {
	if err := clearReadyFile(o.ready); err != nil {
		return err
	}
	card, err := a.modelCard(ctx, o)
	if err != nil {
		return err
	}
	return a.withPlane(ctx, always, func(plane *eventplane.Client, found *discovery.Client) (err error) {
		server, err := a.kvServer(o)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, a.shutdown(ctx, server)) }()
		w := &kvWorker{app: a, options: o, publishers: make([]*kvstate.Publisher, o.ranks)}
		defer func() { err = errors.Join(err, w.shutdown(ctx)) }()
		return unlessDone(ctx, w.run(ctx, plane, found, scope, card, server))
	})
}

// kvServer opens the port that answers queries.
func (a *app) kvServer(o kvServeOptions) (*requestplane.Server, error) {
	options, err := requestplane.ServerOptionsFromEnv(a.env)
	if err != nil {
		return nil, err
	}
	if o.listen != "" {
		options.Listen = o.listen
	}
	networks, err := o.networks()
	if err != nil {
		return nil, err
	}
	if networks != nil {
		options.AllowCallHome = requestplane.InPrefixes(networks...)
	}
	options.Logger = a.logger()
	return requestplane.NewServer(options)
}

// kvWorker is a worker that publishes what it reads.
type kvWorker struct {
	app        *app
	options    kvServeOptions
	publishers []*kvstate.Publisher // of each rank
	parser     kvParser
}

func (w *kvWorker) run(ctx context.Context, plane *eventplane.Client, d *discovery.Client, scope discovery.Scope, card any, server *requestplane.Server) error {
	if err := w.open(ctx, plane, d, scope, card, server); err != nil {
		return err
	}
	for _, p := range w.publishers {
		w.app.waitForBrokers(ctx, p)
		if err := w.app.printRegistered(p.Registration().Instance()); err != nil {
			return err
		}
	}
	if err := writeReadyFile(w.options.ready, w.publishers[0].Registration().Instance().ID().Path()); err != nil {
		return err
	}
	w.parser = kvParser{ranks: w.options.ranks, blockSize: w.options.blockSize}
	for l, err := range readLines(ctx, w.app.stdin) {
		if err != nil {
			return err
		}
		if err := w.publish(ctx, l.text); err != nil {
			return fmt.Errorf("stdin line %d: %w", l.number, err)
		}
	}
	if w.options.lingers {
		return wait.Sleep(ctx, w.options.linger)
	}
	return w.publishers[0].Registration().Wait(ctx)
}

// open opens the publishers. That of the first rank is the last, since it registers
// the card, which names all ranks.
func (w *kvWorker) open(ctx context.Context, plane *eventplane.Client, d *discovery.Client, scope discovery.Scope, card any, server *requestplane.Server) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	codec, err := requestplane.CodecFromEnv(w.app.env)
	if err != nil {
		return err
	}
	for i := range w.publishers {
		rank := len(w.publishers) - 1 - i
		o := kvstate.PublisherOptions{Worker: w.options.worker.value, Rank: uint32(rank), Server: server, Codec: codec, Logger: w.app.logger()}
		if rank == 0 {
			o.Card = card
		}
		if w.publishers[rank], err = kvstate.NewPublisher(ctx, plane, d, scope, o); err != nil {
			return err
		}
	}
	return nil
}

// publish publishes the events of a line, those of a rank at once.
func (w *kvWorker) publish(ctx context.Context, text []byte) error {
	events, err := w.parser.parse(text)
	for begin, end := 0, 0; begin < len(events) && err == nil; begin = end {
		rank := events[begin].Rank.Value
		for end < len(events) && events[end].Rank.Value == rank {
			end++
		}
		err = w.publishers[rank].Publish(ctx, events[begin:end]...)
	}
	return err
}

// shutdown shuts down the publishers, that with the card first.
func (w *kvWorker) shutdown(ctx context.Context) (err error) {
	for _, p := range w.publishers {
		if p != nil {
			err = errors.Join(err, w.app.shutdown(ctx, p))
		}
	}
	return err
}
