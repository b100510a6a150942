package codec_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/codec"
)

func TestAppendJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, in, want string }{
		{"nil", "c0", `null`},
		{"bools", "92 c2 c3", `[false,true]`},
		{"fixints", "93 00 7f e0", `[0,127,-32]`},
		{"unsigned", "94 cc80 cdffff ceffffffff cfffffffffffffffff", `[128,65535,4294967295,18446744073709551615]`},
		{"signed", "94 d080 d18000 d280000000 d38000000000000000", `[-128,-32768,-2147483648,-9223372036854775808]`},
		{"signed, positive", "92 d07f d30000000000000001", `[127,1]`},
		{"float32", "92 ca3dcccccd ca7f7fffff", `[0.1,3.4028235e+38]`},
		{"float64", "95 cb3fb999999999999a cb0000000000000000 cb4024000000000000 cb8000000000000000 cb3e45798ee2308c3a", `[0.1,0,10,-0,1e-08]`},
		{"no numbers", "93 cb7ff8000000000000 cbfff0000000000000 ca7f800000", `[null,null,null]`},
		{"str", "a7 61225c0a091f7f", `"a\"\\\n\t\u001f\u007f"`},
		{"UTF-8", "a5 c3bce4b8bb", `"ü主"`},
		{"not UTF-8", "a5 61ff62e4b8", "\"a\ufffdb\ufffd\ufffd\""},
		{"bin", "c403 00ff10", `"AP8Q"`},
		{"ext", "92 d6ff00000001 c701 0509", `[{"ext":-1,"data":"AAAAAQ=="},{"ext":5,"data":"CQ=="}]`},
		{"empty", "92 90 80", `[[],{}]`},
		{"map", "82 a161 01 a162 81a163c0", `{"a":1,"b":{"c":null}}`},
		{"keys", "87 05 c0 ff c0 c0 c0 c3 c0 ca3fc00000 c0 c40101 c0 cfffffffffffffffff c0",
			`{"5":null,"-1":null,"null":null,"true":null,"1.5":null,"AQ==":null,"18446744073709551615":null}`},
		{"wide", "dc0001 de0001 d90161 c60000000100", `[{"a":"AA=="}]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := codec.AppendJSON([]byte("kept"), unhex(t, c.in))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != "kept"+c.want {
				t.Errorf("got %s, want %s", got[4:], c.want)
			}
			if !json.Valid(got[4:]) {
				t.Errorf("%s is not JSON", got[4:])
			}
		})
	}
}

func TestAppendJSONErrors(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"empty":     "",
		"trailing":  "\x01\x02",
		"truncated": "\x92\x01",
		"array key": "\x81\x90\x01",
		"map key":   "\x81\x80\x01",
		"ext key":   "\x81\xd4\x01\x01\x01",
		"too deep":  strings.Repeat("\x91", 129) + "\xc0",
	} {
		got, err := codec.AppendJSON([]byte("kept"), []byte(in))
		var format *codec.FormatError
		if !errors.As(err, &format) || string(got) != "kept" {
			t.Errorf("%s: got %q and error %v", name, got, err)
		}
	}
	if _, err := codec.AppendJSON(nil, []byte(strings.Repeat("\x91", 128)+"\xc0")); err != nil {
		t.Errorf("128 levels: %v", err)
	}
}
