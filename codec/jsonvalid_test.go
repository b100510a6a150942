package codec

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

// isJSON agrees with encoding/json.
func FuzzIsJSON(f *testing.F) {
	for _, s := range []string{
		"", " ", "null", "nul", "true", "false", "truefalse", "0", "-0", "00", "-", "1.", "1.5", ".5", "1e", "1e5", "1E-05", "1e+", "0x1",
		`""`, `"`, `"\"`, `"\u00e4\n\/"`, `"\u00g0"`, `"\x"`, "\"\n\"", "\"\xff\"",
		"[]", "[ ]", "[1,]", "[,1]", "[1 2]", "[1 , 2]", "[", "]", "[}", "{}", `{"a":1}`, `{"a" : [ {} ] , "b":null}`, `{"a"}`, `{"a":}`, `{1:2}`, `{"a":1,}`, "1 2", " 1 ", "[[[[",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := surveyJSON(data, maxDepth); err != nil {
			return
		}
		if got, want := isJSON(data), json.Valid(data); got != want {
			t.Errorf("%q: got %v, want %v", data, got, want)
		}
	})
}

// The validation of a kilobyte, compared with the library's.
func BenchmarkIsJSON(b *testing.B) {
	for name, text := range map[string]string{
		"event": `{"blocks":[` + strings.Repeat(`{"block_hash":11400714819323198485,"mm":null},`, 22) + `0]}`,
		"bytes": `"` + base64.StdEncoding.EncodeToString(make([]byte, 768)) + `"`,
	} {
		data := []byte(text)
		for validator, valid := range map[string]func([]byte) bool{"ours": isJSON, "library": json.Valid} {
			b.Run(name+"/"+validator, func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					if !valid(data) {
						b.Fatal("not valid")
					}
				}
			})
		}
	}
}
