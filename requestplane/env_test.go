package requestplane

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/certtest"
)

func TestOptionsFromEnv(t *testing.T) {
	t.Parallel()
	env := lookupIn(map[string]string{
		"DYN_TCP_RPC_HOST": "127.0.0.1", "DYN_TCP_RPC_PORT": "41000", "DYN_TCP_MAX_MESSAGE_SIZE": "1048576",
		"DYN_TCP_RESPONSE_STREAM_HOST": "[::1]", "DYN_TCP_RESPONSE_STREAM_PORT": "",
		"DYN_TCP_CONNECT_TIMEOUT": "7", "DYN_TCP_REQUEST_TIMEOUT": "8", "DYN_REQUEST_PLANE_CODEC": "json",
	})
	server, err := ServerOptionsFromEnv(env)
	if err != nil || server.Listen != "127.0.0.1:41000" || server.MaxRequest != 1<<20 || server.TLS.Listener != nil {
		t.Errorf("server %+v, error %v", server, err)
	}
	client, err := ClientOptionsFromEnv(env)
	if err != nil || client.Listen != "[::1]:0" || client.ConnectTimeout != 7*time.Second || client.AckTimeout != 8*time.Second || client.TLS.Dialer != nil {
		t.Errorf("client %+v, error %v", client, err)
	}
	if c, err := CodecFromEnv(env); c != JSON || err != nil {
		t.Errorf("codec %s, error %v", c, err)
	}
	unset := lookupIn(nil)
	if c, err := CodecFromEnv(unset); c != Msgpack || err != nil {
		t.Errorf("codec %s, error %v, want the default", c, err)
	}
	server, err = ServerOptionsFromEnv(unset)
	if err != nil || server.Listen != ":0" {
		t.Errorf("server %+v, error %v, want the default", server, err)
	}
}

func TestEnvErrors(t *testing.T) {
	t.Parallel()
	valid := tlsEnv(certtest.New(t))
	for name, c := range map[string]struct{ env map[string]string }{
		"DYN_TCP_RPC_HOST":                   {map[string]string{"DYN_TCP_RPC_HOST": "no such interface"}},
		"DYN_TCP_RPC_PORT":                   {map[string]string{"DYN_TCP_RPC_PORT": "70000"}},
		"DYN_TCP_MAX_MESSAGE_SIZE":           {map[string]string{"DYN_TCP_MAX_MESSAGE_SIZE": "-1"}},
		"DYN_TCP_CONNECT_TIMEOUT":            {map[string]string{"DYN_TCP_CONNECT_TIMEOUT": "1s"}},
		"DYN_TCP_REQUEST_TIMEOUT":            {map[string]string{"DYN_TCP_REQUEST_TIMEOUT": "0"}},
		"DYN_REQUEST_PLANE_CODEC":            {map[string]string{"DYN_REQUEST_PLANE_CODEC": "cbor"}},
		"DYN_TCP_TLS_KEY_PATH":               {without(valid, "KEY_PATH")},
		"DYN_TCP_TLS_CERT_PATH":              {without(valid, "CERT_PATH", "KEY_PATH")},
		"DYN_TCP_TLS_CLIENT_KEY_PATH":        {without(valid, "CLIENT_KEY_PATH")},
		"DYN_TCP_TLS_CLIENT_CERT_PATH":       {without(valid, "CA_CERT_PATH")},
		"DYN_TCP_TLS_CA_CERT_PATH":           {with(valid, "CA_CERT_PATH", valid["DYN_TCP_TLS_KEY_PATH"])},
		"DYN_TCP_TLS_CLIENT_CA_CERT_PATH":    {with(valid, "CLIENT_CA_CERT_PATH", "/no/such")},
		"DYN_TCP_TLS_HANDSHAKE_TIMEOUT_SECS": {with(valid, "HANDSHAKE_TIMEOUT_SECS", "soon")},
	} {
		env := lookupIn(maps.Clone(c.env))
		_, serverErr := ServerOptionsFromEnv(env)
		_, clientErr := ClientOptionsFromEnv(env)
		_, codecErr := CodecFromEnv(env)
		found := false
		for _, err := range []error{serverErr, clientErr, codecErr} {
			found = found || err != nil && strings.Contains(err.Error(), name) && strings.HasPrefix(err.Error(), "requestplane: ")
		}
		if !found {
			t.Errorf("errors %v, %v, %v, want one that names %s", serverErr, clientErr, codecErr, name)
		}
	}
}
