package file

import (
	"fmt"
	"net/url"
	"strings"
)

// maxName is what file systems take.
const maxName = 255

const upperHex = "0123456789ABCDEF"

// encodeName writes a key as a file name: all but ASCII letters and digits
// become %XX, the escapes of the key itself too.
func encodeName(key string) (string, error) {
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

// decodeName undoes encodeName. Like the runtime it does not mind bytes that
// need no escape and have one, or that need one and have none.
func decodeName(name string) (string, error) { return url.PathUnescape(name) }
