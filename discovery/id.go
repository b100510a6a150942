package discovery

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Kind is the type of a registration.
type Kind uint8

// The kinds of registrations.
const (
	KindEndpoint Kind = iota + 1
	KindModel
	KindEventChannel
	KindEventSource
)

// KindAny selects the registrations of all kinds in a [Query]. It is the kind of
// no registration.
const KindAny Kind = 255

var kindNames = [...]string{"", "Endpoint", "Model", "EventChannel", "EventSource"}

// String returns the name of the kind in the field "type" of an instance's JSON,
// and "any" for KindAny.
func (k Kind) String() string {
	if k == KindAny {
		return "any"
	}
	if k == 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
	return kindNames[k]
}

// HasTopic reports whether registrations of the kind belong to a topic of a scope:
// event channels and event sources do.
func (k Kind) HasTopic() bool { return k == KindEventChannel || k == KindEventSource }

func parseKind(name string) (Kind, error) {
	for k := KindEndpoint; int(k) < len(kindNames); k++ {
		if kindNames[k] == name {
			return k, nil
		}
	}
	return 0, fmt.Errorf("type %q: want one of %s", name, strings.Join(kindNames[1:], ", "))
}

// ErrKind is wrapped by the error of an operation on a registration of another
// kind.
var ErrKind = errors.New("wrong kind of registration")

// ID identifies one registration. It is comparable and can be the key of a map.
// Topic is set only for event channels and sources, Suffix only for models, where
// it is optional.
type ID struct {
	Kind     Kind
	Scope    Scope
	Topic    string
	Suffix   string
	Instance uint64
}

// maxInstanceID keeps ids exact in readers that parse JSON numbers as float64.
const maxInstanceID = 1<<53 - 1

// NewInstanceID returns a random id of at most 53 bits, never zero. Two workers
// draw the same id with negligible probability.
func NewInstanceID() uint64 { return 1 + rand.Uint64N(maxInstanceID) }

// Expect returns nil if id is of the given kind, and otherwise an error that
// wraps ErrKind and names both kinds.
func (id ID) Expect(want Kind) error {
	if id.Kind == want {
		return nil
	}
	return fmt.Errorf("discovery: %s is of kind %v, want %v: %w", id.Path(), id.Kind, want, ErrKind)
}

// Path returns the path of the registration:
//
//	endpoint                     ns/comp/ep/id
//	model                        ns/comp/ep/id[/suffix]
//	channel of a component       ns/comp/topic/id
//	channel of a namespace       ns//topic/id
//	channel of an endpoint       namespace/ns/component/comp/endpoint/ep/topic/topic/id
//	source                       namespace/ns[/component/comp[/endpoint/ep]]/topic/topic/id
//
// The id is lower-case hex without padding. A slash or percent sign in a name
// is written %2F or %25; the last two forms contain names as EncodeSegment writes
// them.
//
// The path of the zero ID is empty.
func (id ID) Path() string {
	if id == (ID{}) {
		return ""
	}
	hex := strconv.FormatUint(id.Instance, 16)
	if id.Kind.HasTopic() {
		if id.Kind == KindEventSource || id.Scope.Endpoint != "" {
			return strings.Join(append(id.Scope.segments(), "topic", EncodeSegment(id.Topic), hex), "/")
		}
		return joinPath(id.Scope.Namespace, id.Scope.Component, id.Topic) + "/" + hex
	}
	path := joinPath(id.Scope.Namespace, id.Scope.Component, id.Scope.Endpoint) + "/" + hex
	if id.Suffix != "" {
		path += "/" + escapePath(id.Suffix)
	}
	return path
}

// String is Path.
func (id ID) String() string { return id.Path() }

// Compare orders ids by kind, scope, topic, instance and suffix. It returns -1, 0
// or 1, as cmp.Compare does.
func (id ID) Compare(o ID) int {
	return cmp.Or(
		cmp.Compare(id.Kind, o.Kind),
		cmp.Compare(id.Scope.Namespace, o.Scope.Namespace),
		cmp.Compare(id.Scope.Component, o.Scope.Component),
		cmp.Compare(id.Scope.Endpoint, o.Scope.Endpoint),
		cmp.Compare(id.Topic, o.Topic),
		cmp.Compare(id.Instance, o.Instance),
		cmp.Compare(id.Suffix, o.Suffix),
	)
}

func joinPath(names ...string) string {
	for i := range names {
		names[i] = escapePath(names[i])
	}
	return strings.Join(names, "/")
}

// ParseID parses a path in the form of Path. The parts of a path depend on the
// kind, which the caller must give. For event channels it also accepts the paths
// of Dynamo's newer generation (namespace/ns[/component/comp]/topic/topic/id). The
// error gives the number of parts found, or the part that is wrong.
func ParseID(kind Kind, path string) (ID, error) {
	parts := strings.Split(path, "/")
	id, err := ID{}, error(nil)
	switch kind {
	case KindEndpoint:
		id, err = parseFlat(kind, parts, 4, unescapePath)
	case KindModel:
		id, err = parseFlat(kind, parts, 5, unescapePath)
	case KindEventChannel, KindEventSource:
		id, err = parseChannel(kind, parts, unescapePath)
	default:
		err = fmt.Errorf("unknown kind %v", kind)
	}
	if err == nil {
		err = id.validate()
	}
	if err != nil {
		return ID{}, fmt.Errorf("discovery: path %q of kind %v: %w", path, kind, err)
	}
	return id, nil
}

func parseFlat(kind Kind, parts []string, most int, decode func(string) (string, error)) (ID, error) {
	if len(parts) < 4 || len(parts) > most {
		want := "4 (ns/comp/ep/id)"
		if most == 5 {
			want = "4 or 5 (ns/comp/ep/id[/suffix])"
		}
		return ID{}, fmt.Errorf("%d parts: want %s", len(parts), want)
	}
	instance, err := parseInstance(parts[3])
	if err != nil {
		return ID{}, err
	}
	names, err := decodeAll(parts, decode)
	if err != nil {
		return ID{}, err
	}
	id := ID{Kind: kind, Scope: Scope{names[0], names[1], names[2]}, Instance: instance}
	if len(names) == 5 {
		if id.Suffix = names[4]; id.Suffix == "" {
			return ID{}, errors.New("the suffix is empty: omit the last slash")
		}
	}
	return id, nil
}

// parseChannel parses the path of an event channel or source, in the flat
// form or in the one with a word before each name. The number of parts
// distinguishes them.
func parseChannel(kind Kind, parts []string, decode func(string) (string, error)) (ID, error) {
	names, err := decodeAll(parts, decode)
	if err != nil {
		return ID{}, err
	}
	id := ID{Kind: kind}
	var words []string
	switch len(parts) {
	case 4: // ns/comp/topic/id
		id.Scope, id.Topic = Scope{Namespace: names[0], Component: names[1]}, names[2]
	case 5: // namespace/ns/topic/topic/id
		words = []string{"namespace", "topic"}
		id.Scope, id.Topic = Scope{Namespace: names[1]}, names[3]
	case 7: // namespace/ns/component/comp/topic/topic/id
		words = []string{"namespace", "component", "topic"}
		id.Scope, id.Topic = Scope{Namespace: names[1], Component: names[3]}, names[5]
	case 9: // namespace/ns/component/comp/endpoint/ep/topic/topic/id
		words = []string{"namespace", "component", "endpoint", "topic"}
		id.Scope, id.Topic = Scope{names[1], names[3], names[5]}, names[7]
	default:
		return ID{}, fmt.Errorf("%d parts: want 4 (ns/comp/topic/id), or 5, 7 or 9 (namespace/ns[/component/comp[/endpoint/ep]]/topic/topic/id)", len(parts))
	}
	for i, word := range words {
		if names[2*i] != word {
			return ID{}, fmt.Errorf("part %d is %q: want %q", 2*i+1, names[2*i], word)
		}
	}
	id.Instance, err = parseInstance(parts[len(parts)-1])
	return id, err
}

func parseInstance(s string) (uint64, error) {
	id, err := strconv.ParseUint(s, 16, 64)
	if err != nil || s != strconv.FormatUint(id, 16) {
		return 0, fmt.Errorf("instance id %q: want lower-case hex of at most 64 bits without padding", s)
	}
	return id, nil
}

func decodeAll(parts []string, decode func(string) (string, error)) ([]string, error) {
	out := make([]string, len(parts))
	for i, part := range parts {
		name, err := decode(part)
		if err != nil {
			return nil, err
		}
		out[i] = name
	}
	return out, nil
}

// Validate returns an error that names what is missing or wrong if id cannot be
// that of a registration: a part of its scope, its topic, or a name that is not
// UTF-8.
func (id ID) Validate() error {
	if err := id.validate(); err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	return nil
}

func (id ID) validate() error {
	if err := id.Scope.validate(); err != nil {
		return err
	}
	// The JSON encoder would replace other bytes, and the value would no longer
	// match its id.
	for _, name := range []string{id.Scope.Namespace, id.Scope.Component, id.Scope.Endpoint, id.Topic, id.Suffix} {
		if !utf8.ValidString(name) {
			return fmt.Errorf("name %q is not UTF-8", name)
		}
	}
	switch id.Kind {
	case KindEndpoint, KindModel:
		if id.Scope.Endpoint == "" || id.Topic != "" {
			return fmt.Errorf("id %s of kind %v: want namespace, component and endpoint, and no topic", id, id.Kind)
		}
	case KindEventChannel, KindEventSource:
		if id.Topic == "" || id.Suffix != "" {
			return fmt.Errorf("id %s of kind %v: want a topic and no suffix", id, id.Kind)
		}
	default:
		return fmt.Errorf("id %s: unknown kind %v", id, id.Kind)
	}
	return nil
}

// The JSON of an id is an object with the kind as its one key: {"Endpoint":{…}}.
type idJSON struct {
	Scope     *Scope  `json:"scope,omitempty"`
	Namespace string  `json:"namespace"`
	Component string  `json:"component"`
	Endpoint  string  `json:"endpoint,omitempty"`
	Topic     string  `json:"topic,omitempty"`
	Instance  uint64  `json:"instance_id,omitempty"`
	Publisher uint64  `json:"publisher_id,omitempty"`
	Suffix    *string `json:"model_suffix,omitempty"`
}

// MarshalJSON writes {"Endpoint"|"Model"|"EventChannel"|"EventSource":{…}}.
func (id ID) MarshalJSON() ([]byte, error) {
	if err := id.validate(); err != nil {
		return nil, err
	}
	j := idJSON{Namespace: id.Scope.Namespace, Component: id.Scope.Component, Topic: id.Topic, Instance: id.Instance}
	if id.Kind.HasTopic() {
		j.Scope = &id.Scope
	} else {
		j.Endpoint = id.Scope.Endpoint
	}
	if id.Kind == KindEventSource {
		j.Publisher, j.Instance = id.Instance, 0
	}
	if id.Suffix != "" {
		j.Suffix = &id.Suffix
	}
	return json.Marshal(map[string]idJSON{id.Kind.String(): j})
}

// UnmarshalJSON parses the form of MarshalJSON, and for event channels also the
// forms of both generations of Dynamo (with or without scope).
func (id *ID) UnmarshalJSON(data []byte) error {
	var tagged map[string]idJSON
	if err := json.Unmarshal(data, &tagged); err != nil {
		return err
	}
	if len(tagged) != 1 {
		return fmt.Errorf("discovery: id with %d kinds: want one", len(tagged))
	}
	for name, j := range tagged {
		kind, err := parseKind(name)
		if err != nil {
			return fmt.Errorf("discovery: id: %w", err)
		}
		out := ID{Kind: kind, Scope: Scope{j.Namespace, j.Component, j.Endpoint}, Topic: j.Topic, Instance: j.Instance}
		if kind == KindEventSource {
			out.Instance = j.Publisher
		}
		if j.Scope != nil {
			out.Scope = *j.Scope
		}
		if j.Suffix != nil {
			out.Suffix = *j.Suffix
		}
		if err := out.validate(); err != nil {
			return fmt.Errorf("discovery: %w", err)
		}
		*id = out
	}
	return nil
}
