package kube

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// logicalID returns the id that Dynamo's variables give to a worker and its
// stand-by, so that readers see one instance whose address changes. It is 0 if
// neither variable is set. The id wins over the key.
func logicalID(env func(string) string) (uint64, error) {
	const idVar, keyVar = "DYN_DISCOVERY_LOGICAL_INSTANCE_ID", "DYN_DISCOVERY_LOGICAL_INSTANCE_KEY"
	if value := env(idVar); value != "" {
		digits, base := value, 10
		if rest, ok := strings.CutPrefix(strings.ToLower(value), "0x"); ok {
			digits, base = rest, 16
		}
		id, err := strconv.ParseUint(digits, base, 64)
		if err != nil || id == 0 || id > maxID {
			return 0, fmt.Errorf("kube: %s %q: want 1 to %d, in decimal or 0x hex", idVar, value, uint64(maxID))
		}
		return id, nil
	}
	key := env(keyVar)
	if key == "" {
		return 0, nil
	}
	expanded, err := expand(key, env)
	if err != nil {
		return 0, fmt.Errorf("kube: %s %q: %w", keyVar, key, err)
	}
	return cmp.Or(HashPodName(expanded), 1), nil
}

// expand replaces each $(NAME) in a key by the variable of that name. A variable
// that is not set is an error, since workers that share no id would get the same
// one.
func expand(key string, env func(string) string) (string, error) {
	var out strings.Builder
	for {
		text, rest, found := strings.Cut(key, "$(")
		out.WriteString(text)
		if !found {
			return out.String(), nil
		}
		name, rest, found := strings.Cut(rest, ")")
		if !found {
			return "", fmt.Errorf("want a ) after $(%s", name)
		}
		value := env(name)
		if value == "" {
			return "", fmt.Errorf("%s is not set: want a value for $(%s)", name, name)
		}
		out.WriteString(value)
		key = rest
	}
}
