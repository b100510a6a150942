package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/discovery"
)

func newRegisterCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "register endpoint|model|channel|source",
		Short: "Register an endpoint, a model, a channel or a source",
		Long: `Register an endpoint, a model, an event channel or an event source, print its path,
and keep it registered until interrupted. The command fails if another owner
registers the same path.`,
		Example: `  dynplane register endpoint dynamo/backend/generate --tcp 10.0.0.7:9000
  dynplane register model dynamo/backend/generate --card card.json
  dynplane register channel dynamo/backend/generate kv-events --zmq tcp://10.0.0.7:41877
  dynplane register source dynamo/backend/generate kv-events --id 43 --metadata source.json`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("no kind of registration: want endpoint, model, channel or source")
			}
			return usagef("register %q: want endpoint, model, channel or source", args[0])
		},
	}
	id := &idFlag{}
	cmd.PersistentFlags().Var(id, "id", "`ID` of the instance, in decimal or 0x hex (default random)")
	a.pprofFlag(cmd)
	cmd.AddCommand(newRegisterEndpoint(a, id), newRegisterModel(a, id), newRegisterChannel(a, id), newRegisterSource(a, id))
	return cmd
}

// idFlag is the flag of a 64-bit instance id.
type idFlag struct {
	value uint64
	given bool
}

// Set implements pflag.Value.
func (f *idFlag) Set(s string) (err error) {
	digits, base := s, 10
	if rest, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		digits, base = rest, 16
	}
	if f.value, err = strconv.ParseUint(digits, base, 64); err != nil {
		return errors.New("want 0 to 18446744073709551615, in decimal or 0x hex")
	}
	f.given = true
	return nil
}

// String implements pflag.Value.
func (f *idFlag) String() string {
	if !f.given {
		return ""
	}
	return strconv.FormatUint(f.value, 10)
}

// Type implements pflag.Value.
func (*idFlag) Type() string { return "id" }

func newRegisterEndpoint(a *app, id *idFlag) *cobra.Command {
	var tcp, device string
	cmd := &cobra.Command{
		Use:     "endpoint NS/COMP/NAME --tcp ADDR",
		Short:   "Register an endpoint",
		Example: `  dynplane register endpoint dynamo/backend/generate --tcp 10.0.0.7:9000/1f/generate --device cuda`,
		Args:    argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, err := parseScope(args[0], 3)
			switch {
			case err != nil:
				return err
			case tcp == "":
				return usagef("--tcp is missing: want an address, such as 10.0.0.7:9000")
			case !isAddress(tcp):
				return usagef("--tcp %q: want HOST:PORT[/INSTANCE/ENDPOINT] that clients can reach", tcp)
			case device != "" && device != discovery.DeviceCPU && device != discovery.DeviceCUDA:
				return usagef("--device %q: want %s or %s", device, discovery.DeviceCPU, discovery.DeviceCUDA)
			}
			return a.register(cmd.Context(), id, discovery.Endpoint{Scope: scope, Transport: discovery.TCP(tcp), Device: device})
		},
	}
	cmd.Flags().StringVar(&tcp, "tcp", "", "`ADDR` that serves requests, HOST:PORT[/INSTANCE/ENDPOINT]")
	cmd.Flags().StringVar(&device, "device", "", "device that serves requests, cpu or cuda")
	return cmd
}

func newRegisterModel(a *app, id *idFlag) *cobra.Command {
	var card, suffix string
	cmd := &cobra.Command{
		Use:   "model NS/COMP/NAME --card FILE",
		Short: "Register a model",
		Long: `Register a model by its card, a JSON object with a display_name. A model that
conflicts with another one of the same endpoint is refused.`,
		Example: `  dynplane register model dynamo/backend/generate --card card.json
  echo '{"display_name":"llama-3"}' | dynplane register model dynamo/backend/generate --card -`,
		Args: argCount(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, err := parseScope(args[0], 3)
			if err != nil {
				return err
			}
			if card == "" {
				return usagef("--card is missing: want a JSON file, or - for stdin")
			}
			model := discovery.Model{Scope: scope, Suffix: suffix}
			if model.Card, err = a.readJSON(cmd.Context(), "--card", card); err != nil {
				return unlessDone(cmd.Context(), err)
			}
			return a.register(cmd.Context(), id, model)
		},
	}
	cmd.Flags().StringVar(&card, "card", "", "`FILE` with the model's card in JSON; - means stdin")
	cmd.Flags().StringVar(&suffix, "suffix", "", "`NAME` of the LoRA adapter")
	return cmd
}

// readJSON returns the content of the file that a flag names, or that of stdin.
func (a *app) readJSON(ctx context.Context, flag, name string) (data []byte, err error) {
	if name == "-" {
		data, err = readAll(ctx, a.stdin)
	} else {
		data, err = os.ReadFile(name)
	}
	if err == nil && !json.Valid(data) {
		err = json.Unmarshal(data, new(json.RawMessage)) // the error has the reason
		err = fmt.Errorf("want JSON: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", flag, name, err)
	}
	return data, nil
}

func newRegisterSource(a *app, id *idFlag) *cobra.Command {
	var metadata string
	cmd := &cobra.Command{
		Use:   "source NS[/COMP[/EP]] TOPIC --id PUBLISHER --metadata FILE",
		Short: "Register an event source",
		Long: `Register the event source of a publisher, under the id of its channel. The metadata
is JSON that Dynamo defines: on the topic kv-events it names the worker whose blocks
the events describe. Dynamo's KV router drops the events of publishers without a
source. A source that is registered with other metadata is refused.`,
		Example: `  echo '{"kv_state_endpoint":{"namespace":"dynamo","component":"backend","name":"generate"},
    "worker":{"worker_id":42,"dp_rank":0},"publisher_id":43}' |
    dynplane register source dynamo/backend/generate kv-events --id 43 --metadata -`,
		Args:                  argCount(2, 2),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, topic, err := parseChannel(args)
			switch {
			case err != nil:
				return err
			case !id.given:
				return usagef("--id is missing: want the id of the publisher, which is that of its channel")
			case metadata == "":
				return usagef("--metadata is missing: want a JSON file, or - for stdin")
			}
			source := discovery.EventSource{Scope: scope, Topic: topic}
			if source.Metadata, err = a.readJSON(cmd.Context(), "--metadata", metadata); err != nil {
				return unlessDone(cmd.Context(), err)
			}
			return a.register(cmd.Context(), id, source)
		},
	}
	cmd.Flags().StringVar(&metadata, "metadata", "", "`FILE` with the source's metadata in JSON; - means stdin")
	return cmd
}

func newRegisterChannel(a *app, id *idFlag) *cobra.Command {
	var t channelFlags
	cmd := &cobra.Command{
		Use:   "channel NS[/COMP[/EP]] TOPIC (--zmq ENDPOINT | --nats-prefix P | --xsub U... --xpub U...)",
		Short: "Register an event channel",
		Example: `  dynplane register channel dynamo/backend/generate kv-events --zmq tcp://10.0.0.7:41877
  dynplane register channel dynamo/zmq_broker broker --xsub tcp://10.0.0.9:5555 --xpub tcp://10.0.0.9:5556`,
		Args:                  argCount(2, 2),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, topic, err := parseChannel(args)
			if err != nil {
				return err
			}
			transport, err := t.transport()
			if err != nil {
				return err
			}
			return a.register(cmd.Context(), id, discovery.EventChannel{Scope: scope, Topic: topic, Transport: transport})
		},
	}
	cmd.Flags().StringVar(&t.zmq, "zmq", "", "ZMQ `ENDPOINT` of the publisher")
	cmd.Flags().StringVar(&t.nats, "nats-prefix", "", "NATS subject `PREFIX`")
	cmd.Flags().StringSliceVar(&t.xsub, "xsub", nil, "ZMQ `ENDPOINT` of a broker that publishers connect to; repeatable")
	cmd.Flags().StringSliceVar(&t.xpub, "xpub", nil, "ZMQ `ENDPOINT` of a broker that subscribers connect to; repeatable")
	return cmd
}

type channelFlags struct {
	zmq, nats  string
	xsub, xpub []string
}

func (f channelFlags) transport() (discovery.Transport, error) {
	var found []discovery.Transport
	if f.zmq != "" {
		found = append(found, discovery.ZMQ{Endpoint: f.zmq})
	}
	if f.nats != "" {
		found = append(found, discovery.NATS{SubjectPrefix: f.nats})
	}
	if len(f.xsub)+len(f.xpub) > 0 {
		found = append(found, discovery.ZMQBroker{XSubEndpoints: f.xsub, XPubEndpoints: f.xpub})
	}
	if len(found) != 1 || (len(f.xsub) == 0) != (len(f.xpub) == 0) {
		return nil, usagef("want one of --zmq, --nats-prefix, or --xsub with --xpub")
	}
	for _, endpoint := range append(append(f.xsub, f.xpub...), f.zmq) {
		if endpoint != "" && !isEndpoint(endpoint) {
			return nil, usagef("ZMQ endpoint %q: want tcp://HOST:PORT that clients can reach, or ipc://PATH", endpoint)
		}
	}
	if strings.ContainsAny(f.nats, " \t\r\n*>") || slices.Contains(strings.Split(f.nats, "."), "") && f.nats != "" {
		return nil, usagef("--nats-prefix %q: want a subject without blanks, wildcards or empty parts", f.nats)
	}
	return found[0], nil
}

func isEndpoint(s string) bool {
	if path, ok := strings.CutPrefix(s, "ipc://"); ok {
		return path != ""
	}
	address, ok := strings.CutPrefix(s, "tcp://")
	return ok && !strings.Contains(address, "/") && isAddress(address)
}

// isAddress reports whether s is HOST:PORT, with or without a path, whose host
// clients can reach: not a wildcard.
func isAddress(s string) bool {
	address, _, _ := strings.Cut(s, "/")
	host, port, err := net.SplitHostPort(address)
	n, perr := strconv.ParseUint(port, 10, 16)
	ip, _ := netip.ParseAddr(host)
	return err == nil && perr == nil && n > 0 && host != "" && host != "*" && (!ip.IsValid() || !ip.IsUnspecified())
}

// parseChannel parses a scope and a topic.
func parseChannel(args []string) (discovery.Scope, string, error) {
	scope, err := parseScope(args[0], 1)
	if err == nil && args[1] == "" {
		err = usagef("topic %q: want a name, such as kv-events", args[1])
	}
	return scope, args[1], err
}

// register registers spec until ctx is done.
func (a *app) register(ctx context.Context, id *idFlag, spec discovery.Spec) error {
	client, err := a.discover(ctx)
	if err != nil {
		return unlessDone(ctx, err)
	}
	err = a.hold(ctx, client, id, spec)
	return errors.Join(unlessDone(ctx, err), a.shutdown(ctx, client))
}

func (a *app) hold(ctx context.Context, client *discovery.Client, id *idFlag, spec discovery.Spec) error {
	opening, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	instance := client.InstanceID()
	if id.given {
		instance = id.value
	}
	reg, err := client.RegisterAs(opening, instance, spec)
	if err != nil {
		return err
	}
	if err := a.printRegistered(reg.Instance()); err != nil {
		return err
	}
	return reg.Wait(ctx)
}

func (a *app) printRegistered(in discovery.Instance) error {
	path := in.ID().Path()
	if a.output == "json" {
		return a.writeJSON(watchLine{Event: discovery.Added.String(), Path: path, Instance: in})
	}
	_, err := fmt.Fprintln(a.stdout, path)
	return err
}
