package file

import (
	"fmt"
	"net/url"
	"strings"
)

// maxName is the longest file name that file systems accept.
const maxName = 255

const upperHex = "0123456789ABCDEF"

// encodeKey returns the file name of a key: all bytes but ASCII letters and
// digits become %XX, the key's own escapes included.
func encodeKey(key string) (string, error) {
	var b strings.Builder
	for i := range len(key) {
		c := key[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
		}
	}
	if b.Len() > maxName {
		return "", fmt.Errorf("key %.60q… makes a file name of %d bytes: want at most %d: shorten the names", key, b.Len(), maxName)
	}
	return b.String(), nil
}

// decodeKey is the inverse of encodeKey. Like Dynamo it accepts needless
// escapes, and bytes that should have been escaped.
func decodeKey(name string) (string, error) { return url.PathUnescape(name) }
