package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/etcd"
	"github.com/dynplane/dynplane/internal/waittest"
)

// fromEnv opens a store as a program would. A server that refuses the connection
// is retried, so an error of that kind takes all of the time.
func fromEnv(t *testing.T, within time.Duration, env map[string]string) (*discovery.Client, error) {
	t.Helper()
	o, err := etcd.FromEnv(func(name string) (string, bool) { value, ok := env[name]; return value, ok })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	store, err := etcd.Dial(ctx, o)
	if err != nil {
		return nil, err
	}
	client := discovery.NewClient(store, discovery.Options{})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
		defer cancel()
		if err := client.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return client, nil
}

// tryOut registers, lists and unregisters.
func tryOut(t *testing.T, client *discovery.Client) {
	t.Helper()
	w := startWatch(t, client, endpoints)
	reg := register(t, client, 1, worker)
	w.await("+1")
	if err := reg.Unregister(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.await("-1")
}

func TestUsers(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	raw, ctx := s.raw(), t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(raw.UserAdd(ctx, "root", "secret"))
	must(raw.UserGrantRole(ctx, "root", "root"))
	must(raw.RoleAdd(ctx, "worker"))
	must(raw.RoleGrantPermission(ctx, "worker", "v1/", clientv3.GetPrefixRangeEnd("v1/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	must(raw.UserAdd(ctx, "worker", "pass"))
	must(raw.UserGrantRole(ctx, "worker", "worker"))
	must(raw.UserAdd(ctx, "stranger", "pass"))
	must(raw.AuthEnable(ctx))
	env := func(user, password string) map[string]string {
		return map[string]string{"ETCD_ENDPOINTS": s.url(), "ETCD_AUTH_USERNAME": user, "ETCD_AUTH_PASSWORD": password}
	}
	client, err := fromEnv(t, waittest.Patience, env("worker", "pass"))
	if err != nil {
		t.Fatal(err)
	}
	tryOut(t, client)
	for _, c := range []struct {
		env  map[string]string
		want error
	}{
		{env("worker", "wrong"), rpctypes.ErrAuthFailed},
		{env("", ""), rpctypes.ErrUserEmpty},
	} {
		if _, err := fromEnv(t, waittest.Patience, c.env); !errors.Is(err, c.want) {
			t.Errorf("%v: %v, want %v", c.env, err, c.want)
		}
	}
	stranger, err := fromEnv(t, waittest.Patience, env("stranger", "pass"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.List(ctx, endpoints); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("list without permission: %v", err)
	}
	if _, err := stranger.RegisterAs(ctx, 2, worker); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("register without permission: %v", err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	serverCert, serverKey := ca.issue(t, "server")
	clientCert, clientKey := ca.issue(t, "client")
	s := runServerWith(t, serverConfig{CA: ca.file, Cert: serverCert, Key: serverKey})
	client, err := fromEnv(t, waittest.Patience, map[string]string{"ETCD_ENDPOINTS": s.url(),
		"ETCD_AUTH_CA": ca.file, "ETCD_AUTH_CLIENT_CERT": clientCert, "ETCD_AUTH_CLIENT_KEY": clientKey})
	if err != nil {
		t.Fatal(err)
	}
	tryOut(t, client)
	for _, env := range []map[string]string{
		{"ETCD_AUTH_CA": ca.file}, // without a client certificate
		{"ETCD_AUTH_CA": newAuthority(t).file, "ETCD_AUTH_CLIENT_CERT": clientCert, "ETCD_AUTH_CLIENT_KEY": clientKey},
		{},
	} {
		env["ETCD_ENDPOINTS"] = s.url()
		_, err := fromEnv(t, 3*time.Second, env)
		if err == nil {
			t.Errorf("%v: connected", env)
		}
		t.Log(err)
	}
}

// authority signs the certificates of a test.
type authority struct {
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	ca := &authority{cert: template("authority")}
	ca.cert.IsCA, ca.cert.KeyUsage = true, x509.KeyUsageCertSign
	ca.file, _, ca.key = ca.sign(t, ca.cert)
	return ca
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
}

func (ca *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	cert, key, _ = ca.sign(t, template(name))
	return cert, key
}

// sign writes a certificate and its new key into files. The certificate of the
// authority itself is signed with the new key.
func (ca *authority) sign(t *testing.T, cert *x509.Certificate) (certFile, keyFile string, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := ca.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, ca.cert, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER), key
}
