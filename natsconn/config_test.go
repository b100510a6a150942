package natsconn_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/natsconn"
)

func lookupIn(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}
}

func TestFromEnv(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		env  map[string]string
		want natsconn.Config
	}{
		"nothing set": {
			want: natsconn.Config{URL: natsconn.DefaultURL},
		},
		"empty is unset": {
			env: map[string]string{
				"NATS_SERVER": "", "NATS_AUTH_USERNAME": "", "NATS_AUTH_PASSWORD": "", "NATS_AUTH_TOKEN": "",
				"NATS_AUTH_NKEY": "", "NATS_AUTH_CREDENTIALS_FILE": "", "NATS_TLS_CA_CERT_PATH": "",
				"NATS_TLS_INSECURE": "", "NATS_TLS_CLIENT_CERT_PATH": "", "NATS_TLS_CLIENT_KEY_PATH": "",
			},
			want: natsconn.Config{URL: natsconn.DefaultURL},
		},
		"everything set": {
			env: map[string]string{
				"NATS_SERVER": "tls://a:4222, nats://b", "NATS_AUTH_USERNAME": "u", "NATS_AUTH_PASSWORD": "p",
				"NATS_AUTH_TOKEN": "t", "NATS_AUTH_NKEY": "SU", "NATS_AUTH_CREDENTIALS_FILE": "c",
				"NATS_TLS_CA_CERT_PATH": "ca", "NATS_TLS_INSECURE": " Yes ",
				"NATS_TLS_CLIENT_CERT_PATH": "cert", "NATS_TLS_CLIENT_KEY_PATH": "key",
			},
			want: natsconn.Config{
				URL: "tls://a:4222, nats://b", Username: "u", Password: "p", Token: "t", NKeySeed: "SU",
				CredentialsFile: "c", CAFile: "ca", InsecureSkipVerify: true, ClientCertFile: "cert", ClientKeyFile: "key",
			},
		},
		"a user name alone yields to the next method": {
			env:  map[string]string{"NATS_AUTH_USERNAME": "u", "NATS_AUTH_TOKEN": "t"},
			want: natsconn.Config{URL: natsconn.DefaultURL, Username: "u", Token: "t"},
		},
		"only the first server needs a scheme": {
			env:  map[string]string{"NATS_SERVER": "nats://[::1]:4222,b:4223"},
			want: natsconn.Config{URL: "nats://[::1]:4222,b:4223"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := natsconn.FromEnv(lookupIn(tt.env))
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("got  %#v\nwant %#v", got, tt.want)
			}
		})
	}
}

func TestFromEnvInsecure(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{
		"1": true, "true": true, "on": true, "yes": true, "TRUE": true, "\tOn\n": true,
		"0": false, "false": false, "off": false, "no": false, "": false, "  ": false, "No": false,
	} {
		c, err := natsconn.FromEnv(lookupIn(map[string]string{"NATS_TLS_INSECURE": value}))
		if err != nil || c.InsecureSkipVerify != want {
			t.Errorf("%q: %v, %v, want %v", value, c.InsecureSkipVerify, err, want)
		}
	}
}

func TestFromEnvErrors(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	tests := map[string]struct {
		env  map[string]string
		want []string
	}{
		"scheme":         {map[string]string{"NATS_SERVER": "http://h:4222"}, []string{"NATS_SERVER", `"http://h:4222"`, "nats://", "tls://"}},
		"no scheme":      {map[string]string{"NATS_SERVER": "h:4222"}, []string{"NATS_SERVER", `"h:4222"`}},
		"second scheme":  {map[string]string{"NATS_SERVER": "nats://h,ws://i"}, []string{"NATS_SERVER", "ws://i"}},
		"capitals":       {map[string]string{"NATS_SERVER": "NATS://h"}, []string{"NATS_SERVER"}},
		"no host":        {map[string]string{"NATS_SERVER": "nats://"}, []string{"NATS_SERVER", "host"}},
		"stray comma":    {map[string]string{"NATS_SERVER": "nats://h,"}, []string{"NATS_SERVER", "host"}},
		"bad port":       {map[string]string{"NATS_SERVER": "nats://h:port"}, []string{"NATS_SERVER", "h:port"}},
		"secret":         {map[string]string{"NATS_SERVER": "http://u:" + secret + "@h"}, []string{"NATS_SERVER", "xxxxx@h"}},
		"secret, slash":  {map[string]string{"NATS_SERVER": "nats://u:" + secret + "/" + secret + "@h"}, []string{"xxxxx@h"}},
		"secret, comma":  {map[string]string{"NATS_SERVER": "nats://u:" + secret + "," + secret + "@h:x"}, []string{"xxxxx@h:x"}},
		"secret, colons": {map[string]string{"NATS_SERVER": "nats://u:" + secret + "://" + secret + "@h"}, []string{"xxxxx@h"}},
		"secret, bare":   {map[string]string{"NATS_SERVER": "u:" + secret + "@h"}, []string{`"xxxxx@h"`}},
		"secrets": {
			map[string]string{"NATS_SERVER": "nats://u:" + secret + "@a,b,tls://" + secret + "@c:x"},
			[]string{`"nats://xxxxx@a,b,tls://xxxxx@c:x"`},
		},
		"path":             {map[string]string{"NATS_SERVER": "nats://u:1/2@h"}, []string{"NATS_SERVER", "xxxxx@h"}},
		"query":            {map[string]string{"NATS_SERVER": "nats://h?tls"}, []string{"NATS_SERVER", "h?tls"}},
		"insecure":         {map[string]string{"NATS_TLS_INSECURE": "maybe"}, []string{"NATS_TLS_INSECURE", `"maybe"`, "true"}},
		"user alone":       {map[string]string{"NATS_AUTH_USERNAME": "u"}, []string{"NATS_AUTH_USERNAME", "NATS_AUTH_PASSWORD"}},
		"password alone":   {map[string]string{"NATS_AUTH_PASSWORD": secret}, []string{"NATS_AUTH_USERNAME", "NATS_AUTH_PASSWORD"}},
		"client cert only": {map[string]string{"NATS_TLS_CLIENT_CERT_PATH": "c.pem"}, []string{"NATS_TLS_CLIENT_KEY_PATH", `"c.pem"`}},
		"client key only":  {map[string]string{"NATS_TLS_CLIENT_KEY_PATH": "k.pem"}, []string{"NATS_TLS_CLIENT_CERT_PATH", `"k.pem"`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := natsconn.FromEnv(lookupIn(tt.env))
			if err == nil {
				t.Fatal("no error")
			}
			text := err.Error()
			if !strings.HasPrefix(text, "natsconn: ") || strings.Contains(text, secret) {
				t.Errorf("error %q: want the package's name and no secret", text)
			}
			for _, want := range tt.want {
				if !strings.Contains(text, want) {
					t.Errorf("error %q does not hold %q", text, want)
				}
			}
		})
	}
}

func TestConfigPrintsNoSecret(t *testing.T) {
	t.Parallel()
	c := natsconn.Config{URL: "nats://u:hush@h", Password: "hush", Token: "hush", NKeySeed: "hush"}
	for _, verb := range []string{"%s", "%v", "%+v"} {
		if got := fmt.Sprintf(verb, c); got != "nats://xxxxx@h" {
			t.Errorf("%s: %q", verb, got)
		}
	}
	if got := (natsconn.Config{}).String(); got != natsconn.DefaultURL {
		t.Errorf("zero value: %q", got)
	}
}
