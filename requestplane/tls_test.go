package requestplane

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/waittest"
)

// authority is a CA of a test.
type authority struct {
	t    *testing.T
	dir  string
	file string // its certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	a.cert, a.key = a.sign(template, template, nil)
	a.file = a.write("ca.pem", "CERTIFICATE", a.cert.Raw)
	return a
}

// sign signs a certificate, with its own key if parent is nil.
func (a *authority) sign(template, issuer *x509.Certificate, parent *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if parent == nil {
		parent = key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, parent)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(name, kind string, data []byte) string {
	a.t.Helper()
	file := filepath.Join(a.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return file
}

// leaf writes a certificate and its key.
func (a *authority) leaf(name string) (cert, key string) {
	a.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	c, k := a.sign(template, a.cert, a.key)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write(name+".pem", "CERTIFICATE", c.Raw), a.write(name+".key", "PRIVATE KEY", der)
}

// env returns an environment with certificates for all four roles.
func (a *authority) env() map[string]string {
	a.t.Helper()
	cert, key := a.leaf("listener")
	clientCert, clientKey := a.leaf("dialer")
	return map[string]string{
		"DYN_TCP_TLS_CERT_PATH": cert, "DYN_TCP_TLS_KEY_PATH": key, "DYN_TCP_TLS_CLIENT_CA_CERT_PATH": a.file,
		"DYN_TCP_TLS_CA_CERT_PATH": a.file, "DYN_TCP_TLS_CLIENT_CERT_PATH": clientCert, "DYN_TCP_TLS_CLIENT_KEY_PATH": clientKey,
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
	mutual := newAuthority(t).env()
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
		"server of another CA":          {newAuthority(t).env(), mutual, false},
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
	config := tlsFrom(t, newAuthority(t).env())
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
	ca := newAuthority(t)
	config := tlsFrom(t, ca.env())
	serial := func() *big.Int {
		t.Helper()
		cert, err := config.Listener.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.SerialNumber
	}
	former := serial()
	cert, key := ca.leaf("listener")
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
