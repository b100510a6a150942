package main

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/discovery"
)

func newSnapshotCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "snapshot",
		Short: "Print the registrations of each instance",
		Long: `Print everything that is registered, of all kinds, by instance. The generation of an
instance changes whenever its registrations do; the numbers have no order.

In JSON, it is one object on one line, with each registration as it is stored:
{"instances":{ID:{"endpoints":{PATH:…},"model_cards":…,"event_channels":…,
"event_sources":…}},"generations":{ID:N},"sequence":1,"timestamp":…}`,
		Example: `  dynplane snapshot
  dynplane snapshot -o json`,
		Args: argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.snapshot(cmd.Context()) },
	}
}

func (a *app) snapshot(ctx context.Context) error {
	client, err := a.discover(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = a.shutdown(ctx, client) }()
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	found, err := client.Snapshot(ctx)
	if err != nil {
		return unanswered(err)
	}
	if a.streamsJSON() {
		return a.writeJSON(found)
	}
	if len(found.Instances) == 0 {
		return a.printNone("nothing is registered")
	}
	t := newTable(a.stdout)
	t.row("INSTANCE", "GENERATION", "ENDPOINTS", "MODELS", "CHANNELS", "SOURCES", "PLACES")
	for _, id := range slices.Sorted(maps.Keys(found.Instances)) {
		t.row(snapshotColumns(id, found)...)
	}
	return t.Flush()
}

func snapshotColumns(id uint64, s discovery.Snapshot) []string {
	metadata := s.Instances[id]
	cells := []string{strconv.FormatUint(id, 16), strconv.FormatInt(s.Generations[id], 10)}
	for _, kind := range []discovery.Kind{
		discovery.KindEndpoint, discovery.KindModel, discovery.KindEventChannel, discovery.KindEventSource,
	} {
		cells = append(cells, strconv.Itoa(len(metadata.Filter(discovery.Query{Kind: kind}))))
	}
	var places []string
	for _, in := range metadata.Instances() {
		places = append(places, placeOf(in.ID()))
	}
	slices.Sort(places)
	return append(cells, strings.Join(slices.Compact(places), " "))
}

// placeOf returns where something is registered, as other commands accept it.
func placeOf(id discovery.ID) string {
	if id.Topic == "" {
		return id.Scope.String()
	}
	return id.Scope.String() + "/" + discovery.EncodeSegment(id.Topic)
}
