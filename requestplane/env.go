package requestplane

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ServerOptionsFromEnv reads the options of a server from the variables of
// Dynamo. Programs pass os.LookupEnv. Unset and empty variables mean the default.
//
//	DYN_TCP_RPC_HOST           IP address or name of an interface to listen on
//	DYN_TCP_RPC_PORT           port, 0 (default) for any
//	DYN_TCP_MAX_MESSAGE_SIZE   bytes of a request
//	DYN_TCP_TLS_*              see TLSFromEnv
func ServerOptionsFromEnv(lookup func(string) (string, bool)) (o ServerOptions, err error) {
	env := environment(lookup)
	if o.Listen, err = env.listen("DYN_TCP_RPC_HOST", "DYN_TCP_RPC_PORT"); err != nil {
		return o, fmt.Errorf("requestplane: %w", err)
	}
	size, err := env.positive("DYN_TCP_MAX_MESSAGE_SIZE", "bytes")
	if err != nil {
		return o, fmt.Errorf("requestplane: %w", err)
	}
	o.MaxRequest = int64(size)
	o.TLS, err = TLSFromEnv(lookup)
	return o, err
}

// ClientOptionsFromEnv reads the options of a client from the variables of
// Dynamo. Programs pass os.LookupEnv. Unset and empty variables mean the default.
//
//	DYN_TCP_RESPONSE_STREAM_HOST   IP address or name of an interface to listen on
//	DYN_TCP_RESPONSE_STREAM_PORT   port, 0 (default) for any
//	DYN_TCP_CONNECT_TIMEOUT        seconds to connect
//	DYN_TCP_REQUEST_TIMEOUT        seconds until a request is acknowledged
//	DYN_TCP_TLS_*                  see TLSFromEnv
func ClientOptionsFromEnv(lookup func(string) (string, bool)) (o ClientOptions, err error) {
	env := environment(lookup)
	o.Listen, err = env.listen("DYN_TCP_RESPONSE_STREAM_HOST", "DYN_TCP_RESPONSE_STREAM_PORT")
	if err == nil {
		o.ConnectTimeout, err = env.seconds("DYN_TCP_CONNECT_TIMEOUT")
	}
	if err == nil {
		o.AckTimeout, err = env.seconds("DYN_TCP_REQUEST_TIMEOUT")
	}
	if err != nil {
		return o, fmt.Errorf("requestplane: %w", err)
	}
	o.TLS, err = TLSFromEnv(lookup)
	return o, err
}

// CodecFromEnv returns the codec of DYN_REQUEST_PLANE_CODEC, which a server
// announces in its registration: Msgpack if it is unset or empty.
func CodecFromEnv(lookup func(string) (string, bool)) (Codec, error) {
	name := environment(lookup).get("DYN_REQUEST_PLANE_CODEC")
	if name == "" {
		return Msgpack, nil
	}
	c, err := ParseCodec(name)
	if err != nil {
		return "", fmt.Errorf("%w (DYN_REQUEST_PLANE_CODEC)", err)
	}
	return c, nil
}

// TLSFromEnv reads the settings of TLS from the variables of Dynamo, of which
// clients and servers use the same. It reads the files that they name.
//
//	DYN_TCP_TLS_CERT_PATH, _KEY_PATH           certificate of listeners
//	DYN_TCP_TLS_CLIENT_CA_CERT_PATH            listeners require certificates of this CA
//	DYN_TCP_TLS_CA_CERT_PATH                   dialers use TLS, and require certificates of this CA
//	DYN_TCP_TLS_INSECURE                       dialers use TLS, and accept any certificate
//	DYN_TCP_TLS_SERVER_NAME                    expected in certificates, in place of the IP address
//	DYN_TCP_TLS_CLIENT_CERT_PATH, _KEY_PATH    certificate of dialers
//	DYN_TCP_TLS_HANDSHAKE_TIMEOUT_SECS         seconds, 3 by default
//
// The prefix of _KEY_PATH is that of the certificate beside it. Certificates are
// read again when their files change, certificates of CAs are not.
func TLSFromEnv(lookup func(string) (string, bool)) (TLS, error) {
	t, err := environment(lookup).tls()
	if err != nil {
		return TLS{}, fmt.Errorf("requestplane: %w", err)
	}
	return t, nil
}

func (env environment) tls() (t TLS, err error) {
	const prefix = "DYN_TCP_TLS_"
	if t.HandshakeTimeout, err = env.seconds(prefix + "HANDSHAKE_TIMEOUT_SECS"); err != nil {
		return t, err
	}
	listener, err := env.keyPair(prefix+"CERT_PATH", prefix+"KEY_PATH")
	if err != nil {
		return t, err
	}
	clientCA, err := env.authorities(prefix + "CLIENT_CA_CERT_PATH")
	if err != nil {
		return t, err
	}
	if clientCA != nil && listener == nil {
		return t, fmt.Errorf("%sCLIENT_CA_CERT_PATH is set: want %[1]sCERT_PATH too", prefix)
	}
	dialer, err := env.keyPair(prefix+"CLIENT_CERT_PATH", prefix+"CLIENT_KEY_PATH")
	if err != nil {
		return t, err
	}
	ca, err := env.authorities(prefix + "CA_CERT_PATH")
	if err != nil {
		return t, err
	}
	insecure := truthy(env.get(prefix + "INSECURE"))
	if dialer != nil && ca == nil && !insecure {
		return t, fmt.Errorf("%sCLIENT_CERT_PATH is set: want %[1]sCA_CERT_PATH or %[1]sINSECURE too", prefix)
	}
	if listener != nil {
		t.Listener = listenerTLS(listener, clientCA)
	}
	if ca != nil || insecure {
		t.Dialer = dialerTLS(dialer, ca, insecure, env.get(prefix+"SERVER_NAME"))
	}
	return t, nil
}

// environment reads variables.
type environment func(string) (string, bool)

// get returns the value of a variable, or "" if it is unset.
func (env environment) get(name string) string {
	value, _ := env(name)
	return value
}

func (env environment) listen(host, port string) (string, error) {
	addr, err := hostPort(env.get(host), env.get(port))
	if err != nil {
		return "", fmt.Errorf("%s, %s: %w", host, port, err)
	}
	return addr, nil
}

// positive returns 0 if the variable is unset or empty.
func (env environment) positive(name, unit string) (uint32, error) {
	value := env.get(name)
	if value == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s %q: want a positive integer, in %s", name, value, unit)
	}
	return uint32(n), nil
}

func (env environment) seconds(name string) (time.Duration, error) {
	n, err := env.positive(name, "seconds")
	return time.Duration(n) * time.Second, err
}

// keyPair returns nil if neither variable is set.
func (env environment) keyPair(cert, key string) (*keyPair, error) {
	p := &keyPair{cert: env.get(cert), key: env.get(key)}
	if p.cert == "" && p.key == "" {
		return nil, nil
	}
	if p.cert == "" || p.key == "" {
		return nil, fmt.Errorf("%s and %s: want both or neither", cert, key)
	}
	if _, err := p.load(); err != nil {
		return nil, fmt.Errorf("%s, %s: %w", cert, key, err)
	}
	return p, nil
}

// authorities returns nil if the variable is not set.
func (env environment) authorities(name string) ([]byte, error) {
	file := env.get(name)
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err == nil {
		_, err = pool(pem)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", name, file, err)
	}
	return pem, nil
}

// truthy accepts the spellings of Dynamo, and takes all others as false.
func truthy(value string) bool {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "1", "true", "on", "yes":
		return true
	}
	return false
}
