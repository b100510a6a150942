package discovery_test

import (
	"strings"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
)

// An instance that was read, changed and registered again is found under its new
// id and with the change, and keeps the fields that this package does not define.
func TestRegisterInstanceHonoursChanges(t *testing.T) {
	t.Parallel()
	client := discovery.NewClient(memory.New().Open(), discovery.Options{})
	var in discovery.Instance
	if err := in.UnmarshalJSON([]byte(`{"type":"Endpoint","instance_id":1,"namespace":"n","component":"c","endpoint":"e",` +
		`"transport":{"tcp":"old"},"later":[7]}`)); err != nil {
		t.Fatal(err)
	}
	endpoint := in.Spec.(discovery.Endpoint)
	endpoint.Transport = discovery.TCP("new")
	in.Spec, in.InstanceID = endpoint, 2
	if _, err := client.RegisterInstance(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	found, err := client.List(t.Context(), discovery.Query{Kind: discovery.KindEndpoint})
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v, want the one instance", found, err)
	}
	if got := found[0]; got.ID() != in.ID() || got.Spec.(discovery.Endpoint).Transport.Address != "new" || !strings.Contains(string(got.Raw), `"later":[7]`) {
		t.Errorf("%+v, raw %s", got, got.Raw)
	}
}
