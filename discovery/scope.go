package discovery

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Scope is a place in the hierarchy of namespace, component and endpoint.
// Endpoints and models have all three parts; an event channel may belong to a
// namespace, a component or an endpoint. An empty part means that the scope ends
// above it. Scope is comparable.
type Scope struct {
	Namespace string
	Component string
	Endpoint  string
}

// ParseScope parses NS[/COMP[/EP]], the form that String returns.
func ParseScope(s string) (Scope, error) {
	parts := strings.Split(s, "/")
	if len(parts) > 3 {
		return Scope{}, fmt.Errorf("discovery: scope %q has %d parts: want NS, NS/COMP or NS/COMP/EP", s, len(parts))
	}
	names := make([]string, 3)
	for i, part := range parts {
		name, err := unescapePath(part)
		if err != nil || name == "" {
			return Scope{}, fmt.Errorf("discovery: scope %q: part %d is empty or has an invalid escape: want NS, NS/COMP or NS/COMP/EP", s, i+1)
		}
		names[i] = name
	}
	return Scope{names[0], names[1], names[2]}, nil
}

// String returns NS, NS/COMP or NS/COMP/EP.
func (s Scope) String() string {
	out := escapePath(s.Namespace)
	for _, name := range []string{s.Component, s.Endpoint} {
		if name == "" {
			break
		}
		out += "/" + escapePath(name)
	}
	return out
}

// Validate returns an error if the scope has a part but not the one above it.
func (s Scope) Validate() error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	return nil
}

func (s Scope) validate() error {
	switch {
	case s.Namespace == "":
		return fmt.Errorf("scope of component %q and endpoint %q: want a namespace", s.Component, s.Endpoint)
	case s.Component == "" && s.Endpoint != "":
		return fmt.Errorf("scope of namespace %q and endpoint %q: want a component above the endpoint", s.Namespace, s.Endpoint)
	}
	return nil
}

// Contains reports whether o is s or below it. The zero Scope contains every
// other.
func (s Scope) Contains(o Scope) bool {
	return (s.Namespace == "" || s.Namespace == o.Namespace) &&
		(s.Component == "" || s.Component == o.Component) &&
		(s.Endpoint == "" || s.Endpoint == o.Endpoint)
}

// SubjectPrefix returns the prefix of the event plane's subjects in this scope,
// such as namespace.dynamo.component.backend.
func (s Scope) SubjectPrefix() string {
	return strings.Join(s.segments(), ".")
}

// Subject returns the event plane's subject of a topic in this scope.
func (s Scope) Subject(topic string) string {
	return s.SubjectPrefix() + "." + EncodeSegment(topic)
}

func (s Scope) segments() []string {
	out := []string{"namespace", EncodeSegment(s.Namespace)}
	if s.Component != "" {
		out = append(out, "component", EncodeSegment(s.Component))
	}
	if s.Endpoint != "" {
		out = append(out, "endpoint", EncodeSegment(s.Endpoint))
	}
	return out
}

// The JSON form is that of Dynamo's newer generation: a kind beside the names; the
// names of an endpoint are in an object of their own.
type scopeJSON struct {
	Kind      string             `json:"kind"`
	Name      string             `json:"name,omitempty"`
	Namespace string             `json:"namespace,omitempty"`
	Component string             `json:"component,omitempty"`
	Endpoint  *scopeEndpointJSON `json:"endpoint,omitempty"`
}

type scopeEndpointJSON struct {
	Namespace string `json:"namespace"`
	Component string `json:"component"`
	Name      string `json:"name"`
}

// MarshalJSON writes {"kind":"namespace"|"component"|"endpoint",…}.
func (s Scope) MarshalJSON() ([]byte, error) {
	switch {
	case s.Endpoint != "":
		return json.Marshal(scopeJSON{Kind: "endpoint", Endpoint: &scopeEndpointJSON{s.Namespace, s.Component, s.Endpoint}})
	case s.Component != "":
		return json.Marshal(scopeJSON{Kind: "component", Namespace: s.Namespace, Component: s.Component})
	default:
		return json.Marshal(scopeJSON{Kind: "namespace", Name: s.Namespace})
	}
}

// UnmarshalJSON parses the form that MarshalJSON writes.
func (s *Scope) UnmarshalJSON(data []byte) error {
	var j scopeJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	switch {
	case j.Kind == "namespace":
		*s = Scope{Namespace: j.Name}
	case j.Kind == "component":
		*s = Scope{Namespace: j.Namespace, Component: j.Component}
	case j.Kind == "endpoint" && j.Endpoint != nil:
		*s = Scope{j.Endpoint.Namespace, j.Endpoint.Component, j.Endpoint.Name}
	default:
		return fmt.Errorf("scope kind %q: want namespace, component or endpoint with its names", j.Kind)
	}
	return nil
}
