package requestplane

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"sync"
	"time"
)

const (
	defaultConnectTimeout   = 5 * time.Second
	defaultHandshakeTimeout = 3 * time.Second
)

// TLS has the settings of both sides of a call, since a client and a server each
// listen and dial. Mutual TLS requires a certificate of dialers: Listener has
// ClientAuth and ClientCAs, and Dialer has Certificates.
//
// A server with only a Listener calls home in plaintext, as in Dynamo.
type TLS struct {
	Listener *tls.Config // nil accepts plaintext, and nothing else
	Dialer   *tls.Config // nil dials plaintext. ServerName is the IP address unless set

	HandshakeTimeout time.Duration // 0 means 3 s
}

// keyPair is a certificate in two files.
type keyPair struct {
	cert, key string

	mu      sync.Mutex
	loaded  *tls.Certificate
	changed [2]time.Time // of the files
}

// load returns the certificate, which it reads again if a file has changed. A pair
// that cannot be read, such as one that is half replaced, keeps the former.
func (p *keyPair) load() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var changed [2]time.Time
	for i, file := range []string{p.cert, p.key} {
		if info, err := os.Stat(file); err == nil {
			changed[i] = info.ModTime()
		}
	}
	if p.loaded != nil && changed == p.changed {
		return p.loaded, nil
	}
	pair, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err == nil {
		p.loaded, p.changed = &pair, changed
	}
	if p.loaded != nil {
		return p.loaded, nil
	}
	return nil, err
}

func listenerTLS(pair *keyPair, clientCA []byte) *tls.Config {
	c := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.load() },
	}
	if clientCA != nil {
		c.ClientAuth = tls.RequireAndVerifyClientCert
		c.ClientCAs, _ = pool(clientCA) // has been parsed before
	}
	return c
}

func dialerTLS(pair *keyPair, ca []byte, insecure bool, name string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name, InsecureSkipVerify: insecure}
	if ca != nil {
		c.RootCAs, _ = pool(ca) // has been parsed before
	}
	if pair != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.load() }
	}
	return c
}

func pool(pem []byte) (*x509.CertPool, error) {
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in it: want PEM")
	}
	return p, nil
}
