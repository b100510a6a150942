package main

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/discovery"
)

const queryHelp = `Without a scope, all are shown; with NS, NS/COMP or NS/COMP/NAME, those in the
scope and below it. NAME is the endpoint of endpoints and models, and the topic of
channels and event sources. A bucket that does not exist counts as empty.`

func newListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls endpoints|models|channels|sources [NS[/COMP[/NAME]]]",
		Short: "List registrations",
		Long: `List the endpoints, models, event channels or event sources that are registered.

` + queryHelp + `

In JSON, each line is one instance as it is stored.`,
		Example: `  dynplane ls endpoints
  dynplane ls models dynamo
  dynplane ls channels dynamo/backend/kv-events -o json`,
		Args: argCount(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := parseQuery(args)
			if err != nil {
				return err
			}
			return a.list(cmd.Context(), q)
		},
	}
}

func (a *app) list(ctx context.Context, q discovery.Query) error {
	client, err := a.discover(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = a.shutdown(ctx, client) }()
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	found, err := client.List(ctx, q)
	if err != nil {
		return err
	}
	if a.streamsJSON() {
		for _, in := range found {
			if err := a.writeJSON(stored(in)); err != nil {
				return err
			}
		}
		return nil
	}
	if len(found) == 0 {
		return nil
	}
	t := newTable(a.stdout)
	t.row(heading(q.Kind)...)
	for _, in := range found {
		t.row(columns(in)...)
	}
	return t.Flush()
}

// stored returns the JSON that the instance was read from, with the fields that
// this version does not support.
func stored(in discovery.Instance) any {
	if in.Raw != nil {
		return in.Raw
	}
	return in
}

// heading returns the names of the columns.
func heading(k discovery.Kind) []string {
	switch k {
	case discovery.KindModel:
		return []string{"PATH", "MODEL"}
	case discovery.KindEventSource:
		return []string{"PATH", "WORKER", "RANK"}
	}
	return []string{"PATH", "TRANSPORT", "ADDRESS"}
}

// columns returns the path of an instance and its most useful properties.
func columns(in discovery.Instance) []string {
	path := in.ID().Path()
	switch s := in.Spec.(type) {
	case discovery.Endpoint:
		if s.Transport.Raw != nil {
			return []string{path, "other", string(s.Transport.Raw)}
		}
		return []string{path, s.Transport.Kind, s.Transport.Address}
	case discovery.Model:
		var card struct {
			Name string `json:"display_name"`
		}
		_ = json.Unmarshal(s.Card, &card) // without a name the column is empty
		return []string{path, card.Name}
	case discovery.EventChannel:
		return []string{path, transportName(s.Transport), s.Transport.Address()}
	case discovery.EventSource:
		return append([]string{path}, workerOf(s)...)
	}
	return []string{path}
}

// workerOf returns the id, in the form of paths, and the data-parallel rank of the
// worker whose state a source's events describe.
func workerOf(s discovery.EventSource) []string {
	var metadata struct {
		Worker *struct {
			ID   uint64 `json:"worker_id"`
			Rank uint64 `json:"dp_rank"`
		} `json:"worker"`
	}
	if json.Unmarshal(s.Metadata, &metadata) != nil || metadata.Worker == nil {
		return nil // the metadata is Dynamo's and was not validated
	}
	return []string{strconv.FormatUint(metadata.Worker.ID, 16), strconv.FormatUint(metadata.Worker.Rank, 10)}
}

func transportName(t discovery.Transport) string {
	if _, ok := t.(discovery.ZMQBroker); ok {
		return "broker"
	}
	return t.Kind()
}

// parseQuery parses a kind and an optional scope.
func parseQuery(args []string) (discovery.Query, error) {
	kinds := map[string]discovery.Kind{
		"endpoints": discovery.KindEndpoint, "models": discovery.KindModel, "channels": discovery.KindEventChannel,
		"sources": discovery.KindEventSource,
	}
	q := discovery.Query{Kind: kinds[args[0]]}
	if q.Kind == 0 {
		return q, usagef("kind %q: want endpoints, models, channels or sources", args[0])
	}
	if len(args) == 1 {
		return q, nil
	}
	scope, err := discovery.ParseScope(args[1])
	if err != nil {
		return q, usagef("%q: want NS, NS/COMP or NS/COMP/NAME", args[1])
	}
	q.Scope = scope
	if q.Kind == discovery.KindEventChannel || q.Kind == discovery.KindEventSource {
		q.Topic, q.Scope.Endpoint = scope.Endpoint, ""
	}
	return q, nil
}

// parseScope parses a scope of at least that many parts.
func parseScope(arg string, least int) (discovery.Scope, error) {
	scope, err := discovery.ParseScope(arg)
	if err != nil {
		return scope, usagef("%w", err)
	}
	if parts := 1 + strings.Count(arg, "/"); parts < least {
		return scope, usagef("%q has %d parts: want NS/COMP/NAME", arg, parts)
	}
	return scope, nil
}
