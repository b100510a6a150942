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
	if id, ok := decodePlainKey(key); ok {
		return id, nil
	}
	return decodeAnyKey(key)
}

// decodePlainKey is decodeKey for keys without encoded bytes, which nearly all
// are. It reports false for all others, valid or not.
func decodePlainKey(key string) (id discovery.ID, ok bool) {
	var tokens [6]string
	n := 0
	for rest, more := key, true; more; n++ {
		if n == len(tokens) {
			return id, false
		}
		tokens[n], rest, more = strings.Cut(rest, ".")
		if tokens[n] == noToken {
			tokens[n] = ""
		} else if !isPlainToken(tokens[n]) {
			return id, false
		}
	}
	id.Kind = kindOf(tokens[0])
	id.Scope = discovery.Scope{Namespace: tokens[1], Component: tokens[2], Endpoint: tokens[3]}
	instance := tokens[4]
	switch {
	case id.Kind.HasTopic():
		id.Topic, instance = tokens[4], tokens[5]
		ok = n == 6
	case n == 6:
		id.Suffix = tokens[5]
		ok = id.Kind == discovery.KindModel && id.Suffix != ""
	default:
		ok = n == 5
	}
	if !ok || id.Kind == 0 {
		return id, false
	}
	var err error
	id.Instance, err = strconv.ParseUint(instance, 16, 64)
	canonical := err == nil && instance == strings.ToLower(instance) && (instance[0] != '0' || instance == "0")
	return id, canonical && id.Validate() == nil
}

func isPlainToken(t string) bool {
	for i := range len(t) {
		c := t[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return t != ""
}

func decodeAnyKey(key string) (discovery.ID, error) {
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
	switch word {
	case "endpoints":
		return discovery.KindEndpoint
	case "models":
		return discovery.KindModel
	case "channels":
		return discovery.KindEventChannel
	case "sources":
		return discovery.KindEventSource
	}
	return 0
}

// keyFilter returns the one filter that covers a query. Several filters on a
// consumer cost the server far more than one that matches a few keys too many.
func keyFilter(q discovery.Query) string {
	word, ok := keyKinds[q.Kind]
	switch {
	case q.Kind == discovery.KindAny:
		word = "*"
	case !ok:
		word = noToken // matches no key
	}
	part := func(name string) string {
		if name == "" && !q.Exact {
			return "*"
		}
		return token(name)
	}
	tokens := []string{word, part(q.Scope.Namespace), part(q.Scope.Component), part(q.Scope.Endpoint)}
	switch {
	case q.Topic != "":
		tokens = append(tokens, encodeToken(q.Topic), "*")
	case q.Kind.HasTopic():
		tokens = append(tokens, "*", "*")
	default:
		tokens = append(tokens, ">")
	}
	return strings.Join(tokens, ".")
}
