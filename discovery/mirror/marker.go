package mirror

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/dynplane/dynplane/discovery"
)

// Field is the name of the field that marks a mirrored entry, in the JSON object of
// its instance. The value is the id of the mirror.
const Field = "dynplane_mirror"

// markerOf returns the JSON of the field, or "" if there is none.
func markerOf(in discovery.Instance) string {
	var tag struct {
		Mirror json.RawMessage `json:"dynplane_mirror"`
	}
	if json.Unmarshal(in.Raw, &tag) != nil {
		return ""
	}
	return string(tag.Mirror)
}

// marked returns the instance with the field added, and otherwise as it was read.
// An event channel also gets the fields that the other generation of Dynamo
// requires, which may be the one that reads the target.
func marked(in discovery.Instance, marker string) (discovery.Instance, error) {
	if in.Raw == nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return in, err
		}
		in.Raw = raw
	}
	var present map[string]json.RawMessage
	if err := json.Unmarshal(in.Raw, &present); err != nil {
		return in, err
	}
	add := []field{{Field, json.RawMessage(marker)}}
	if ch, ok := in.Spec.(discovery.EventChannel); ok {
		add = append(add, field{"scope", ch.Scope}, field{"namespace", ch.Scope.Namespace}, field{"component", ch.Scope.Component})
	}
	// Clipped, since appending must not write to the shared array of in.Raw.
	raw := slices.Clip(bytes.TrimSuffix(bytes.TrimSpace(in.Raw), []byte("}")))
	for _, f := range add {
		if _, ok := present[f.name]; ok {
			continue
		}
		value, err := json.Marshal(f.value)
		if err != nil {
			return in, err
		}
		raw = append(raw, `,"`+f.name+`":`...)
		raw = append(raw, value...)
	}
	raw = append(raw, '}')
	in.Raw = raw
	return in, nil
}

// field is a field to add to a JSON object.
type field struct {
	name  string
	value any
}
