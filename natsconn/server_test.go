package natsconn_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/natsconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t *testing.T, c natsconn.Config, opts ...nats.Option) (*nats.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	nc, err := natsconn.Connect(ctx, c, opts...)
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

func mustConnect(t *testing.T, c natsconn.Config, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := connect(t, c, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(waittest.Patience); err != nil {
		t.Fatal(err)
	}
	return nc
}

// authority is a certificate authority with a server and a client certificate
// for 127.0.0.1, as files.
type authority struct {
	pool                          *x509.CertPool
	caFile                        string
	serverCert                    tls.Certificate
	clientCertFile, clientKeyFile string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	dir := t.TempDir()
	caKey := newKey(t)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caFile := writePEM(t, dir, "ca.pem", "CERTIFICATE", sign(t, ca, ca, caKey, caKey))
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leafKey := newKey(t)
	der, err := x509.MarshalECPrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	a := authority{
		pool:           x509.NewCertPool(),
		caFile:         caFile,
		clientCertFile: writePEM(t, dir, "cert.pem", "CERTIFICATE", sign(t, leaf, ca, leafKey, caKey)),
		clientKeyFile:  writePEM(t, dir, "key.pem", "EC PRIVATE KEY", der),
	}
	if a.serverCert, err = tls.LoadX509KeyPair(a.clientCertFile, a.clientKeyFile); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(caFile)
	if err != nil || !a.pool.AppendCertsFromPEM(text) {
		t.Fatal("CA file: ", err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, cert, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t *testing.T, dir, name, kind string, der []byte) string {
	t.Helper()
	return writeFile(t, dir, name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func writeFile(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
