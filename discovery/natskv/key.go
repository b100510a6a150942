package natskv

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dynplane/dynplane/discovery"
)

// A key of the bucket has one token for each name, so that a wildcard can
// select any part. A part that a scope lacks is a lone '=', which no name is
// encoded to.
//
//	endpoints.<ns>.<comp>.<ep>.<id>
//	models.<ns>.<comp>.<ep>.<id>[.<suffix>]
//	channels.<ns>.<comp>.<ep>.<topic>.<id>
//	sources.<ns>.<comp>.<ep>.<topic>.<id>
const noToken = "="

var keyKinds = map[discovery.Kind]string{
	discovery.KindEndpoint:     "endpoints",
	discovery.KindModel:        "models",
	discovery.KindEventChannel: "channels",
	discovery.KindEventSource:  "sources",
}

func encodeKey(id discovery.ID) string {
	tokens := []string{keyKinds[id.Kind], token(id.Scope.Namespace), token(id.Scope.Component), token(id.Scope.Endpoint)}
	if id.Kind.HasTopic() {
		tokens = append(tokens, token(id.Topic))
	}
	tokens = append(tokens, strconv.FormatUint(id.Instance, 16))
	if id.Suffix != "" {
		tokens = append(tokens, token(id.Suffix))
	}
	return strings.Join(tokens, ".")
}

// maxKey keeps subjects, and the protocol lines that contain them, within the
// 4,096 bytes that a server accepts. A longer line would make the server close
// the connection, with all its leases.
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

// A KV key cannot contain '%', so tokens are segments with '=' in its place.
func encodeToken(name string) string {
	return strings.ReplaceAll(discovery.EncodeSegment(name), "%", "=")
}

func decodeToken(t string) (string, error) {
	if t == noToken {
		return "", nil
	}
	name, err := discovery.DecodeSegment(strings.ReplaceAll(t, "=", "%"))
	if err != nil || encodeToken(name) != t {
		return "", fmt.Errorf("token %q is not a valid encoding of a name", t)
	}
	return name, nil
}

func decodeKey(key string) (discovery.ID, error) {
	tokens := strings.Split(key, ".")
	id := discovery.ID{Kind: kindOf(tokens[0])}
	least, most := 5, 5
	switch {
	case id.Kind == 0:
		return discovery.ID{}, fmt.Errorf("key %q: want one that begins with endpoints, models, channels or sources", key)
	case id.Kind == discovery.KindModel:
		most = 6
	case id.Kind.HasTopic():
		least, most = 6, 6
	}
	if len(tokens) < least || len(tokens) > most {
		return discovery.ID{}, fmt.Errorf("key %q has %d tokens: want %d to %d", key, len(tokens), least, most)
	}
	names := make([]string, len(tokens))
	for i, t := range tokens {
		var err error
		if names[i], err = decodeToken(t); err != nil {
			return discovery.ID{}, fmt.Errorf("key %q: %w", key, err)
		}
	}
	id.Scope = discovery.Scope{Namespace: names[1], Component: names[2], Endpoint: names[3]}
	rest := names[4:]
	if id.Kind.HasTopic() {
		id.Topic, rest = rest[0], rest[1:]
	}
	var err error
	if id.Instance, err = strconv.ParseUint(rest[0], 16, 64); err != nil {
		return discovery.ID{}, fmt.Errorf("key %q: instance id %q: want lower-case hex of at most 64 bits without padding", key, rest[0])
	}
	if len(rest) > 1 {
		id.Suffix = rest[1]
	}
	if err := id.Validate(); err != nil || encodeKey(id) != key {
		return discovery.ID{}, fmt.Errorf("key %q does not name a registration", key)
	}
	return id, nil
}

// kindOf returns the kind of a key by its first token, or 0.
func kindOf(word string) discovery.Kind {
	for kind, w := range keyKinds {
		if w == word {
			return kind
		}
	}
	return 0
}

// keyFilter returns the one filter that covers a query. Several filters on a
// consumer cost the server far more than one that matches a few keys too many.
func keyFilter(q discovery.Query) string {
	word, ok := keyKinds[q.Kind]
	if !ok {
		word = noToken // matches no key
	}
	tokens := []string{word, wildcard(q.Scope.Namespace), wildcard(q.Scope.Component), wildcard(q.Scope.Endpoint)}
	if q.Kind.HasTopic() {
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
