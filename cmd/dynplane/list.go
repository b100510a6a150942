package main

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/discovery"
)

const queryHelp = `Without a scope, all are shown; with NS, NS/COMP or NS/COMP/EP, those in the scope
and below it. A scope may be followed by a TOPIC of channels or event sources; in
NS/COMP/NAME, NAME is either an endpoint or a topic. A bucket that does not exist
counts as empty.`

func newListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls endpoints|models|channels|sources [NS[/COMP[/EP]][/TOPIC]]",
		Short: "List registrations",
		Long: `List the endpoints, models, event channels or event sources that are registered.

` + queryHelp + `

In JSON, each line is one instance as it is stored.`,
		Example: `  dynplane ls endpoints
  dynplane ls models dynamo
  dynplane ls channels dynamo/backend/generate
  dynplane ls channels dynamo/backend/generate/kv-events -o json`,
		Args: argCount(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := parseSelection(args)
			if err != nil {
				return err
			}
			return a.list(cmd.Context(), s, strings.Join(args, " in "))
		},
	}
}

// list prints what is selected; what names it.
func (a *app) list(ctx context.Context, s selection, what string) error {
	client, err := a.discover(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = a.shutdown(ctx, client) }()
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	found, err := client.List(ctx, s.Query)
	if err != nil {
		return unanswered(err)
	}
	found = slices.DeleteFunc(found, func(in discovery.Instance) bool { return !s.match(in.ID()) })
	if a.streamsJSON() {
		for _, in := range found {
			if err := a.writeJSON(stored(in)); err != nil {
				return err
			}
		}
		return nil
	}
	if len(found) == 0 {
		return a.printNone("no " + what + " are registered")
	}
	t := newTable(a.stdout)
	t.row(heading(s.Kind)...)
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
		return []string{"SCOPE", "TOPIC", "PUBLISHER", "WORKER", "RANK"}
	case discovery.KindEventChannel:
		return []string{"SCOPE", "TOPIC", "PUBLISHER", "TRANSPORT", "ADDRESS"}
	}
	return []string{"PATH", "TRANSPORT", "ADDRESS"}
}

// hexID returns an instance id in the form of paths.
func hexID(id uint64) string { return strconv.FormatUint(id, 16) }

// columns returns what identifies an instance, in the form that other commands
// accept, and its most useful properties.
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
		return []string{s.Scope.String(), s.Topic, hexID(in.InstanceID), transportName(s.Transport), s.Transport.Address()}
	case discovery.EventSource:
		return append([]string{s.Scope.String(), s.Topic, hexID(in.InstanceID)}, workerOf(s)...)
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
	return []string{hexID(metadata.Worker.ID), strconv.FormatUint(metadata.Worker.Rank, 10)}
}

func transportName(t discovery.Transport) string {
	if _, ok := t.(discovery.ZMQBroker); ok {
		return "broker"
	}
	return t.Kind()
}

// selection is a query of the command line. Its last name may be either the next
// part of the scope or a topic.
type selection struct {
	discovery.Query
	name string // "" if the query is complete
}

// match reports whether id is selected.
func (s selection) match(id discovery.ID) bool {
	if !s.Match(id) || s.name == "" {
		return s.Match(id)
	}
	next := id.Scope.Endpoint
	if s.Scope.Component == "" {
		next = id.Scope.Component
	}
	return id.Topic == s.name || next == s.name
}

// queries returns queries that together match what is selected.
func (s selection) queries() []discovery.Query {
	if s.name == "" {
		return []discovery.Query{s.Query}
	}
	below, topic := s.Query, s.Query
	topic.Topic = s.name
	if s.Scope.Component == "" {
		below.Scope.Component = s.name
	} else {
		below.Scope.Endpoint = s.name
	}
	return []discovery.Query{below, topic}
}

// parseSelection parses a kind and an optional place: a scope, and for channels
// and sources also a scope and a topic.
func parseSelection(args []string) (selection, error) {
	kinds := map[string]discovery.Kind{
		"endpoints": discovery.KindEndpoint, "models": discovery.KindModel, "channels": discovery.KindEventChannel,
		"sources": discovery.KindEventSource,
	}
	s := selection{Query: discovery.Query{Kind: kinds[args[0]]}}
	if s.Kind == 0 {
		return s, usagef("kind %q: want endpoints, models, channels or sources", args[0])
	}
	if len(args) == 1 {
		return s, nil
	}
	if !s.Kind.HasTopic() {
		var err error
		if s.Scope, err = scopeOf(args[1]); err != nil {
			return s, usagef("%q: want NS, NS/COMP or NS/COMP/EP", args[1])
		}
		return s, nil
	}
	place, topic := args[1], ""
	if strings.Count(place, "/") == 3 {
		at := strings.LastIndex(place, "/")
		place, topic = place[:at], place[at+1:]
	}
	scope, err := scopeOf(place)
	if err == nil && topic != "" {
		topic, err = discovery.DecodeSegment(topic)
	}
	switch {
	case err != nil || strings.HasSuffix(args[1], "/"):
		return s, usagef("%q: want NS[/COMP[/EP]], and a topic after it if need be", args[1])
	case topic != "" || scope.Component == "" || strings.Count(place, "/") == 0:
		s.Scope, s.Topic = scope, topic
	case scope.Endpoint != "":
		s.name, scope.Endpoint = scope.Endpoint, ""
		s.Scope = scope
	default:
		s.name, scope.Component = scope.Component, ""
		s.Scope = scope
	}
	return s, nil
}

// scopeOf parses NS[/COMP[/EP]], and NS.COMP.EP as Dynamo writes endpoints. A
// namespace that contains dots itself is written with %2E.
func scopeOf(arg string) (discovery.Scope, error) {
	if strings.Count(arg, ".") == 2 && !strings.Contains(arg, "/") {
		arg = strings.ReplaceAll(arg, ".", "/")
	}
	return discovery.ParseScope(arg)
}

// parseScope parses a scope of at least that many parts.
func parseScope(arg string, least int) (discovery.Scope, error) {
	scope, err := scopeOf(arg)
	if err != nil {
		return scope, usagef("%w", err)
	}
	if parts := 1 + strings.Count(scope.String(), "/"); parts < least {
		return scope, usagef("%q has %d parts: want NS/COMP/NAME", arg, parts)
	}
	return scope, nil
}
