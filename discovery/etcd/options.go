package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// Options are the settings of a [Store]. The zero value is useful.
type Options struct {
	// Endpoints are the addresses of the members: http://host:port,
	// https://host:port or host:port. Empty means http://localhost:2379.
	Endpoints []string

	// Username and Password authenticate the client; set both or neither.
	Username, Password string

	// TLS applies to https endpoints and to those without a scheme. It must be
	// nil for http endpoints, which etcd's client would connect to without TLS.
	TLS *tls.Config

	// TTL is how long registrations outlive their owner: whole seconds; zero
	// means 10 s. etcd raises it to its own minimum, 2 s by default.
	TTL time.Duration

	// Wire is the format of the keys that are written. Both formats are read.
	Wire discovery.WireFormat

	// Logger receives warnings when registrations are lost or recovered, and
	// when the store stops answering and answers again; nil disables logging.
	Logger *slog.Logger
}

const (
	defaultEndpoint = "http://localhost:2379"
	defaultTTL      = 10 * time.Second
)

// FromEnv returns the options that Dynamo's variables describe; an empty
// variable counts as unset. lookup is usually os.LookupEnv.
//
//	ETCD_ENDPOINTS          addresses, separated by commas
//	ETCD_LEASE_TTL          seconds; 0 and invalid numbers mean 10
//	ETCD_AUTH_USERNAME      and ETCD_AUTH_PASSWORD: the user
//	ETCD_AUTH_CA            file of the certificates to trust, for TLS
//	ETCD_AUTH_CLIENT_CERT   and ETCD_AUTH_CLIENT_KEY: files of the client's certificate
//	DYN_EVENT_PLANE_WIRE    format of the keys: gen2 (default) or gen1
//
// FromEnv reads these files. A user name without a password, or a certificate
// without a key, is an error. The caller sets Logger.
func FromEnv(lookup func(string) (string, bool)) (Options, error) {
	env := func(name string) string { value, _ := lookup(name); return value }
	o := Options{
		Username: env("ETCD_AUTH_USERNAME"),
		Password: env("ETCD_AUTH_PASSWORD"),
		TTL:      leaseTTL(env("ETCD_LEASE_TTL")),
	}
	if (o.Username == "") != (o.Password == "") {
		return Options{}, errors.New("etcd: ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD: want both or neither")
	}
	if list := env("ETCD_ENDPOINTS"); list != "" {
		for ep := range strings.SplitSeq(list, ",") {
			o.Endpoints = append(o.Endpoints, strings.TrimSpace(ep))
		}
	}
	var err error
	if o.Wire, err = discovery.WireFormatFromEnv(lookup); err != nil {
		return Options{}, fmt.Errorf("etcd: %w", err)
	}
	o.TLS, err = tlsConfig(env("ETCD_AUTH_CA"), env("ETCD_AUTH_CLIENT_CERT"), env("ETCD_AUTH_CLIENT_KEY"))
	if err != nil {
		return Options{}, fmt.Errorf("etcd: %w", err)
	}
	if len(o.Endpoints) == 0 && o.TLS != nil {
		o.Endpoints = []string{strings.Replace(defaultEndpoint, "http:", "https:", 1)}
	}
	return o, nil
}

// leaseTTL accepts any text, as Dynamo does for this variable.
func leaseTTL(seconds string) time.Duration {
	n, err := strconv.ParseUint(seconds, 10, 32)
	if err != nil || n == 0 {
		return defaultTTL
	}
	return time.Duration(n) * time.Second
}

// tlsConfig returns nil if no file is named.
func tlsConfig(ca, cert, key string) (*tls.Config, error) {
	if (cert == "") != (key == "") {
		return nil, errors.New("ETCD_AUTH_CLIENT_CERT and ETCD_AUTH_CLIENT_KEY: want both or neither")
	}
	if ca == "" && cert == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("ETCD_AUTH_CA: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ETCD_AUTH_CA %s: want PEM certificates, found none", ca)
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("ETCD_AUTH_CLIENT_CERT %s and ETCD_AUTH_CLIENT_KEY %s: %w", cert, key, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// withDefaults returns the options as they are used, or what is wrong with them.
func (o Options) withDefaults() (Options, error) {
	if len(o.Endpoints) == 0 {
		o.Endpoints = []string{defaultEndpoint}
	}
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, o.validate()
}

func (o Options) validate() error {
	if o.TTL < time.Second || o.TTL%time.Second != 0 {
		return fmt.Errorf("TTL %v: want whole seconds, at least 1s", o.TTL)
	}
	if (o.Username == "") != (o.Password == "") {
		return errors.New("user name and password: want both or neither")
	}
	schemes := map[string]bool{}
	for _, ep := range o.Endpoints {
		scheme, host, found := strings.Cut(ep, "://")
		if !found {
			scheme, host = "", ep
		}
		host, _, _ = strings.Cut(host, "/")
		_, port, err := net.SplitHostPort(host)
		if err != nil || port == "" || found && scheme != "http" && scheme != "https" {
			return fmt.Errorf("endpoint %q (ETCD_ENDPOINTS): want http://host:port, https://host:port or host:port", ep)
		}
		schemes[scheme] = true
	}
	if len(schemes) > 1 {
		return fmt.Errorf("endpoints %s: want the same scheme for all", o.addresses())
	}
	if schemes["http"] && o.TLS != nil {
		return fmt.Errorf("endpoints %s with TLS settings: want https", o.addresses())
	}
	return nil
}

// addresses returns the endpoints for messages.
func (o Options) addresses() string { return strings.Join(o.Endpoints, ",") }
