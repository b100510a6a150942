package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// FromEnv reads the variables of the runtime. lookup is os.LookupEnv, or what a
// test wants; an empty variable is an unset one.
//
//	ETCD_ENDPOINTS          addresses with commas between
//	ETCD_LEASE_TTL          seconds; 0 and what is no number are 10
//	ETCD_AUTH_USERNAME      and ETCD_AUTH_PASSWORD: log in
//	ETCD_AUTH_CA            file with the certificates to trust, for TLS
//	ETCD_AUTH_CLIENT_CERT   and ETCD_AUTH_CLIENT_KEY: files of our own certificate
//
// It reads the files. Half a pair is an error; the Logger is left to the caller.
func FromEnv(lookup func(string) (string, bool)) (Options, error) {
	env := func(name string) string { value, _ := lookup(name); return value }
	o := Options{
		Username: env("ETCD_AUTH_USERNAME"),
		Password: env("ETCD_AUTH_PASSWORD"),
		TTL:      leaseTTL(env("ETCD_LEASE_TTL")),
	}
	if (o.Username == "") != (o.Password == "") {
		return Options{}, errors.New("etcd: ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD: want both or none")
	}
	if list := env("ETCD_ENDPOINTS"); list != "" {
		for ep := range strings.SplitSeq(list, ",") {
			o.Endpoints = append(o.Endpoints, strings.TrimSpace(ep))
		}
	}
	var err error
	o.TLS, err = tlsConfig(env("ETCD_AUTH_CA"), env("ETCD_AUTH_CLIENT_CERT"), env("ETCD_AUTH_CLIENT_KEY"))
	if err != nil {
		return Options{}, fmt.Errorf("etcd: %w", err)
	}
	if len(o.Endpoints) == 0 && o.TLS != nil {
		o.Endpoints = []string{strings.Replace(defaultEndpoint, "http:", "https:", 1)}
	}
	return o, nil
}

// leaseTTL is as lenient as the runtime, which never fails on this variable.
func leaseTTL(seconds string) time.Duration {
	n, err := strconv.ParseUint(seconds, 10, 32)
	if err != nil || n == 0 {
		return defaultTTL
	}
	return time.Duration(n) * time.Second
}

func tlsConfig(ca, cert, key string) (*tls.Config, error) {
	if (cert == "") != (key == "") {
		return nil, errors.New("ETCD_AUTH_CLIENT_CERT and ETCD_AUTH_CLIENT_KEY: want both or none")
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
