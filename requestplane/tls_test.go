package requestplane

import (
	"bytes"
	"crypto/tls"
	"io"
	"maps"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/certtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// tlsEnv returns an environment with certificates of an authority for all four roles.
func tlsEnv(ca *certtest.Authority) map[string]string {
	cert, key := ca.Leaf("listener")
	clientCert, clientKey := ca.Leaf("dialer")
	return map[string]string{
		"DYN_TCP_TLS_CERT_PATH": cert, "DYN_TCP_TLS_KEY_PATH": key, "DYN_TCP_TLS_CLIENT_CA_CERT_PATH": ca.File,
		"DYN_TCP_TLS_CA_CERT_PATH": ca.File, "DYN_TCP_TLS_CLIENT_CERT_PATH": clientCert, "DYN_TCP_TLS_CLIENT_KEY_PATH": clientKey,
		"DYN_TCP_TLS_HANDSHAKE_TIMEOUT_SECS": "60",
	}
}

func without(env map[string]string, names ...string) map[string]string {
	env = maps.Clone(env)
	for _, name := range names {
		delete(env, "DYN_TCP_TLS_"+name)
	}
	return env
}

func with(env map[string]string, name, value string) map[string]string {
	env = maps.Clone(env)
	env["DYN_TCP_TLS_"+name] = value
	return env
}

func lookupIn(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { value, ok := env[name]; return value, ok }
}

func tlsFrom(t *testing.T, env map[string]string) TLS {
	t.Helper()
	config, err := TLSFromEnv(lookupIn(env))
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestTLS(t *testing.T) {
	t.Parallel()
	mutual := tlsEnv(certtest.New(t))
	simple := without(mutual, "CLIENT_CA_CERT_PATH", "CLIENT_CERT_PATH", "CLIENT_KEY_PATH")
	for name, c := range map[string]struct {
		server, client map[string]string
		ok             bool
	}{
		"both":                          {simple, simple, true},
		"mutual":                        {mutual, mutual, true},
		"insecure":                      {with(without(simple, "CA_CERT_PATH"), "INSECURE", "true"), with(without(simple, "CA_CERT_PATH"), "INSECURE", "on"), true},
		"by name":                       {with(mutual, "SERVER_NAME", "listener"), with(mutual, "SERVER_NAME", "listener"), true},
		"another name":                  {mutual, with(mutual, "SERVER_NAME", "other"), false},
		"plaintext client":              {simple, nil, false},
		"plaintext server":              {nil, simple, false},
		"client without a certificate":  {mutual, without(mutual, "CLIENT_CERT_PATH", "CLIENT_KEY_PATH"), false},
		"server of another CA":          {tlsEnv(certtest.New(t)), mutual, false},
		"server that dials plaintext":   {without(simple, "CA_CERT_PATH"), simple, false},
		"server and listener that does": {without(simple, "CA_CERT_PATH"), without(simple, "CERT_PATH", "KEY_PATH"), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newServer(t, ServerOptions{TLS: tlsFrom(t, c.server)})
			client := newClient(t, ClientOptions{TLS: tlsFrom(t, c.client)})
			to := serve(t, server, echo)
			if c.ok {
				expectEcho(t, client, to)
				return
			}
			// Both connections are refused at once, except for one that nothing
			// is sent on: the server cannot call home, and the client waits.
			items, err := collect(t.Context(), client, to, "1", CallOptions{Idle: 10 * moment})
			if err == nil {
				t.Errorf("items %q, want an error", items)
			}
		})
	}
}

// TestTLSConnectionsAreEncrypted compares what is on the wire.
func TestTLSConnectionsAreEncrypted(t *testing.T) {
	t.Parallel()
	config := tlsFrom(t, tlsEnv(certtest.New(t)))
	server := newServer(t, ServerOptions{TLS: config})
	conn, err := net.Dial("tcp", server.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var seen bytes.Buffer
	recorded := struct {
		io.Reader
		net.Conn
	}{io.TeeReader(conn, &seen), conn}
	secure := tls.Client(readerConn{recorded.Conn, recorded.Reader}, dialerConfig(config))
	_ = secure.SetDeadline(time.Now().Add(waittest.Patience))
	request, err := encodeRequest("no/such", nil, []byte("{}"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := secure.Write(request); err != nil {
		t.Fatal(err)
	}
	text, err := readAck(secure)
	if err != nil || !strings.Contains(text, "unknown endpoint") || bytes.Contains(seen.Bytes(), []byte("unknown")) {
		t.Errorf("acknowledgement %q, error %v, want one that is encrypted", text, err)
	}
}

type readerConn struct {
	net.Conn
	r io.Reader
}

func (c readerConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func dialerConfig(c TLS) *tls.Config {
	config := c.Dialer.Clone()
	config.ServerName = "127.0.0.1"
	return config
}

// TestCertificatesAreReadAgain replaces the certificate of a listener.
func TestCertificatesAreReadAgain(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	config := tlsFrom(t, tlsEnv(ca))
	serial := func() *big.Int {
		t.Helper()
		cert, err := config.Listener.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.SerialNumber
	}
	former := serial()
	cert, key := ca.Leaf("listener")
	later := time.Now().Add(time.Minute)
	for _, file := range []string{cert, key} {
		if err := os.Chtimes(file, later, later); err != nil {
			t.Fatal(err)
		}
	}
	latter := serial()
	if latter.Cmp(former) == 0 {
		t.Error("the certificate is the former one")
	}
	if err := os.WriteFile(key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if serial().Cmp(latter) != 0 {
		t.Error("a broken key replaced the certificate")
	}
}
