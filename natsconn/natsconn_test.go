package natsconn_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/natsconn"
)

func TestAuth(t *testing.T) {
	t.Parallel()
	seed, public := newUser(t)
	otherSeed, _ := newUser(t)
	jwtServer, credentials := newOperator(t)
	tests := map[string]struct {
		server natstest.Option
		right  natsconn.Config
	}{
		"user and password": {
			server: natstest.Password("u", "p"),
			// The other methods are set too: this one takes precedence.
			right: natsconn.Config{Username: "u", Password: "p", Token: "x", NKeySeed: "x", CredentialsFile: "x"},
		},
		"token": {
			server: natstest.Token("t"),
			right:  natsconn.Config{Username: "u", Token: "t", NKeySeed: "x", CredentialsFile: "x"},
		},
		"nkey": {
			server: natstest.NKey(public),
			right:  natsconn.Config{Password: "p", NKeySeed: seed + "\n", CredentialsFile: "x"},
		},
		"credentials file": {
			server: jwtServer,
			right:  natsconn.Config{CredentialsFile: credentials},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := natstest.Run(t, tt.server).URL()
			tt.right.URL = url
			mustConnect(t, tt.right)

			for _, wrong := range []natsconn.Config{
				{},
				{Username: "u", Password: "wrong"},
				{Token: "wrong"},
				{NKeySeed: otherSeed},
			} {
				wrong.URL = url
				_, err := connect(t, wrong)
				if err == nil {
					t.Fatalf("%#v: connected, want an error", wrong)
				}
				if !strings.Contains(err.Error(), url) {
					t.Errorf("error %q does not name %s", err, url)
				}
			}
		})
	}
}

func TestAuthInURL(t *testing.T) {
	t.Parallel()
	address := strings.TrimPrefix(natstest.Run(t, natstest.Password("u", "hush")).URL(), "nats://")
	mustConnect(t, natsconn.Config{URL: "nats://u:hush@" + address, Token: "x"})

	_, err := connect(t, natsconn.Config{URL: "nats://u:hush2@" + address})
	if !errors.Is(err, nats.ErrAuthorization) || strings.Contains(err.Error(), "hush2") {
		t.Errorf("error %v: want an authorization violation and no password", err)
	}
}

func TestBadSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	_, err := connect(t, natsconn.Config{NKeySeed: "SUhush"})
	if err == nil || !strings.Contains(err.Error(), "NATS_AUTH_NKEY") || strings.Contains(err.Error(), "hush") {
		t.Errorf("error %v: want one that names NATS_AUTH_NKEY and not the seed", err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	oneWay := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{a.serverCert}}
	mutual := oneWay.Clone()
	mutual.ClientCAs, mutual.ClientAuth = a.pool, tls.RequireAndVerifyClientCert

	tests := map[string]struct {
		server *tls.Config
		scheme string
		config natsconn.Config
		check  func(error) bool // nil: it connects
	}{
		"ca":             {server: oneWay, scheme: "nats", config: natsconn.Config{CAFile: a.caFile}},
		"ca, tls scheme": {server: oneWay, scheme: "tls", config: natsconn.Config{CAFile: a.caFile}},
		"insecure":       {server: oneWay, scheme: "nats", config: natsconn.Config{InsecureSkipVerify: true}},
		"client cert": {server: mutual, scheme: "tls", config: natsconn.Config{
			CAFile: a.caFile, ClientCertFile: a.clientCertFile, ClientKeyFile: a.clientKeyFile,
		}},
		"client cert, insecure": {server: mutual, scheme: "nats", config: natsconn.Config{
			InsecureSkipVerify: true, ClientCertFile: a.clientCertFile, ClientKeyFile: a.clientKeyFile,
		}},
		"unknown authority": {server: oneWay, scheme: "tls", check: func(err error) bool {
			return errors.As(err, new(x509.UnknownAuthorityError))
		}},
		"no client cert": {server: mutual, scheme: "tls", config: natsconn.Config{CAFile: a.caFile}, check: func(err error) bool {
			return err != nil
		}},
		"server without TLS": {scheme: "nats", config: natsconn.Config{CAFile: a.caFile}, check: func(err error) bool {
			return errors.Is(err, nats.ErrSecureConnWanted)
		}},
		"no such CA file": {server: oneWay, scheme: "nats", config: natsconn.Config{CAFile: "nowhere.pem"}, check: func(err error) bool {
			return err != nil && strings.Contains(err.Error(), "nowhere.pem")
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natstest.Run(t, natstest.TLS(tt.server))
			tt.config.URL = tt.scheme + strings.TrimPrefix(srv.URL(), "nats")
			if tt.check == nil {
				mustConnect(t, tt.config)
				return
			}
			if _, err := connect(t, tt.config); !tt.check(err) {
				t.Errorf("error %v is not the one expected", err)
			}
		})
	}
}

func TestConnectInvalidConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []natsconn.Config{
		{URL: "http://h"},
		{Username: "u"},
		{ClientKeyFile: "k"},
	} {
		if _, err := connect(t, c); err == nil {
			t.Errorf("%#v: no error", c)
		}
	}
}

func TestConnectWithoutServer(t *testing.T) {
	t.Parallel()
	gone := natstest.Run(t)
	url := gone.URL()
	gone.Stop()

	_, err := connect(t, natsconn.Config{URL: url})
	if !errors.Is(err, nats.ErrNoServers) || !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), url) {
		t.Errorf("error %v: want connection refused at %s", err, url)
	}

	mustConnect(t, natsconn.Config{URL: url + "," + natstest.Run(t).URL()})
}

func TestConnectContext(t *testing.T) {
	t.Parallel()
	// A listener that accepts and sends nothing, like a server that is suspended.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()

	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		if conn, err := silent.Accept(); err == nil {
			defer func() { _ = conn.Close() }()
		}
	}()
	_, err = natsconn.Connect(ctx, natsconn.Config{URL: "nats://" + silent.Addr().String()})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), silent.Addr().String()) {
		t.Errorf("error %v: want a cancelled context, and the server's address", err)
	}
	_, err = natsconn.Connect(ctx, natsconn.Config{URL: natstest.Run(t).URL()})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v: want a cancelled context", err)
	}
}

func newUser(t *testing.T) (seed, public string) {
	t.Helper()
	keys, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	text, err := keys.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = keys.PublicKey(); err != nil {
		t.Fatal(err)
	}
	return string(text), public
}

// newOperator creates an operator, an account and a user. It returns the option of
// a server that trusts them, and the user's credentials file.
func newOperator(t *testing.T) (natstest.Option, string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	operator, err := nkeys.CreateOperator()
	check(err)
	operatorID, err := operator.PublicKey()
	check(err)
	account, err := nkeys.CreateAccount()
	check(err)
	accountID, err := account.PublicKey()
	check(err)
	seed, userID := newUser(t)

	accountJWT, err := jwt.NewAccountClaims(accountID).Encode(operator)
	check(err)
	userJWT, err := jwt.NewUserClaims(userID).Encode(account)
	check(err)
	credentials, err := jwt.FormatUserConfig(userJWT, []byte(seed))
	check(err)

	return natstest.Operator(operatorID, accountID, accountJWT), writeFile(t, t.TempDir(), "user.creds", credentials)
}
