package discovery

import (
	"fmt"
	"strings"
)

// Keys in the bucket. One token a name, so that wildcards can select any part;
// a part that a scope does not have is a lone '=', which no name encodes to.
//
//	endpoints.<ns>.<comp>.<ep>.<id>
//	models.<ns>.<comp>.<ep>.<id>[.<suffix>]
//	channels.<ns>.<comp>.<ep>.<topic>.<id>
//	sources.<ns>.<comp>.<ep>.<topic>.<id>
const noToken = "="

var keyKinds = map[Kind]string{
	KindEndpoint:     "endpoints",
	KindModel:        "models",
	KindEventChannel: "channels",
	KindEventSource:  "sources",
}

func encodeKey(id ID) string {
	hex := fmt.Sprintf("%x", id.Instance)
	tokens := []string{keyKinds[id.Kind], token(id.Scope.Namespace), token(id.Scope.Component), token(id.Scope.Endpoint)}
	if id.hasTopic() {
		tokens = append(tokens, token(id.Topic))
	}
	tokens = append(tokens, hex)
	if id.Suffix != "" {
		tokens = append(tokens, token(id.Suffix))
	}
	return strings.Join(tokens, ".")
}

// maxKey keeps subjects, and the protocol lines with them, within the 4096
// bytes that a server takes. It would close the connection, with all its leases.
const maxKey = 2048

func checkKey(key string) error {
	if len(key) > maxKey {
		return fmt.Errorf("key %.60q… of %d bytes: want at most %d: shorten the names", key, len(key), maxKey)
	}
	return nil
}

func token(name string) string {
	if name == "" {
		return noToken
	}
	return encodeToken(name)
}

func decodeKey(key string) (ID, error) {
	tokens := strings.Split(key, ".")
	var id ID
	for kind, word := range keyKinds {
		if tokens[0] == word {
			id.Kind = kind
		}
	}
	least, most := 5, 5
	switch id.Kind {
	case KindModel:
		most = 6
	case KindEventChannel, KindEventSource:
		least, most = 6, 6
	case KindEndpoint:
	default:
		return ID{}, fmt.Errorf("discovery: key %q: want one that begins with endpoints, models, channels or sources", key)
	}
	if len(tokens) < least || len(tokens) > most {
		return ID{}, fmt.Errorf("discovery: key %q has %d tokens: want %d to %d", key, len(tokens), least, most)
	}
	names := make([]string, len(tokens))
	for i, t := range tokens {
		if t == noToken {
			continue
		}
		var err error
		if names[i], err = decodeToken(t); err != nil || token(names[i]) != t {
			return ID{}, fmt.Errorf("discovery: key %q: token %q is not written as we write it", key, t)
		}
	}
	id.Scope = Scope{names[1], names[2], names[3]}
	rest := names[4:]
	if id.hasTopic() {
		id.Topic, rest = rest[0], rest[1:]
	}
	var err error
	if id.Instance, err = parseInstance(rest[0]); err != nil {
		return ID{}, fmt.Errorf("discovery: key %q: %w", key, err)
	}
	if len(rest) > 1 {
		id.Suffix = rest[1]
	}
	if err := id.validate(); err != nil || encodeKey(id) != key {
		return ID{}, fmt.Errorf("discovery: key %q names no registration", key)
	}
	return id, nil
}

// keyFilter returns the one filter that covers a query: several filters on a
// consumer cost the server far more than one that delivers a little too much.
func keyFilter(q Query) string {
	word, ok := keyKinds[q.Kind]
	if !ok {
		word = noToken // matches no key
	}
	tokens := []string{word, wildcard(q.Scope.Namespace), wildcard(q.Scope.Component), wildcard(q.Scope.Endpoint)}
	if (ID{Kind: q.Kind}).hasTopic() {
		tokens = append(tokens, wildcard(q.Topic), "*")
	} else {
		tokens = append(tokens, ">")
	}
	return strings.Join(tokens, ".")
}

func wildcard(name string) string {
	if name == "" {
		return "*"
	}
	return encodeToken(name)
}
