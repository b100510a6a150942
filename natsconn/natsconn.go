// Package natsconn opens the NATS connections that carry dynplane's leases and
// events. Its settings can be read from the environment.
//
//	cfg, err := natsconn.FromEnv(os.LookupEnv)
//	...
//	nc, err := natsconn.Connect(ctx, cfg)
//	...
//	defer nc.Close()
//
// [Connect] either succeeds or fails; it does not retry in the background. A
// connection that is lost later reconnects, with five to ten attempts per second
// and without a limit, because leases expire while it is lost.
//
// Nothing is buffered while the connection is lost: publishing fails with
// [nats.ErrReconnectBufExceeded]. A heartbeat or an event that is sent late does
// harm, and one that is dropped without an error does more. A server that
// disappears without closing the connection is detected within six seconds; a
// connection on which data still arrives is never cut.
//
// A *nats.Conn is safe for concurrent use. The caller of Connect must close it.
package natsconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

const (
	dialTimeout = 2 * time.Second

	// The wait is short and does not back off, because leases of a few seconds
	// depend on it. The jitter spreads the attempts of thousands of clients.
	reconnectWait   = 100 * time.Millisecond
	reconnectJitter = 100 * time.Millisecond

	// flushTimeout bounds the time that Publish can block if the server has
	// stopped reading.
	flushTimeout = 2 * time.Second
)

// Connect dials the servers of c in turn and returns the first connection that is
// established and authenticated. Each attempt takes two seconds at most. ctx
// bounds all of them, but not the life of the connection.
//
// The error names the servers, without credentials, and wraps the cause: that of
// ctx, [nats.ErrAuthorization], or [nats.ErrNoServers] with the error of the last
// dial. An invalid Config is an error too.
//
// opts are applied after the options that Connect sets, and override them. Use
// [nats.Conn.StatusChanged] to follow the state of the connection: a handler in
// opts would replace the logging.
func Connect(ctx context.Context, c Config, opts ...nats.Option) (*nats.Conn, error) {
	own, err := c.options()
	if err != nil {
		return nil, fmt.Errorf("natsconn: %w", err)
	}
	d := newDialer()
	own = append(own, nats.SetCustomDialer(d))

	stop := context.AfterFunc(ctx, d.abort)
	nc, err := nats.Connect(c.servers(), slices.Concat(own, opts)...)
	if !stop() {
		if nc != nil {
			nc.Close()
		}
		return nil, fmt.Errorf("natsconn: connect to %s: %w", c, context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("natsconn: connect to %s: %w", c, d.explain(err))
	}
	return nc, nil
}

func (c Config) servers() string {
	if c.URL == "" {
		return DefaultURL
	}
	return c.URL
}

// options returns the options of a connection, but for the dialer.
func (c Config) options() ([]nats.Option, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	auth, err := c.auth()
	if err != nil {
		return nil, err
	}
	return slices.Concat(newWatcher(c.Logger).options(), auth, c.tls(), []nats.Option{
		nats.Name(c.Name),
		nats.Timeout(dialTimeout),
		// The dialer resolves names itself, so that ctx bounds that too.
		nats.SkipHostLookup(),
		nats.MaxReconnects(-1),
		// A server that reloads its accounts briefly rejects all clients.
		// Without this option, the second rejection would close the connection.
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.ReconnectBufSize(-1),
		nats.FlusherTimeout(flushTimeout),
		// A write that timed out may have written part of a message. The server
		// could not parse what follows it on the same connection.
		nats.ReconnectOnFlusherError(),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(neverStale),
	}), nil
}

// auth returns the option of the first method that is set.
func (c Config) auth() ([]nats.Option, error) {
	switch {
	case c.Username != "" && c.Password != "":
		return []nats.Option{nats.UserInfo(c.Username, c.Password)}, nil
	case c.Token != "":
		return []nats.Option{nats.Token(c.Token)}, nil
	case c.NKeySeed != "":
		return nkey(c.NKeySeed)
	case c.CredentialsFile != "":
		return []nats.Option{nats.UserCredentials(c.CredentialsFile)}, nil
	}
	return nil, nil
}

// nkey parses the seed, to fail before dialling. The error must not quote it.
func nkey(seed string) ([]nats.Option, error) {
	keys, err := nkeys.FromSeed([]byte(strings.TrimSpace(seed)))
	if err != nil {
		return nil, fmt.Errorf("NATS_AUTH_NKEY: want the seed of a user key (SU…): %w", err)
	}
	public, err := keys.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("NATS_AUTH_NKEY: %w", err)
	}
	return []nats.Option{nats.Nkey(public, keys.Sign)}, nil
}

// tls returns the options of TLS. Each of them makes it required.
func (c Config) tls() []nats.Option {
	var opts []nats.Option
	if c.InsecureSkipVerify {
		opts = append(opts, nats.Secure(&tls.Config{
			MinVersion:         tls.VersionTLS12,
			InsecureSkipVerify: true, // set explicitly by the user
		}))
	}
	if c.CAFile != "" {
		opts = append(opts, nats.RootCAs(c.CAFile))
	}
	if c.ClientCertFile != "" {
		opts = append(opts, nats.ClientCert(c.ClientCertFile, c.ClientKeyFile))
	}
	return opts
}

// dialer lets the context of Connect interrupt the first connection, handshake
// included, which nats.go cannot do. It also keeps the error of the last dial:
// if all connections are refused, the error of nats.go does not have the cause.
type dialer struct {
	net.Dialer

	mu        sync.Mutex
	aborted   bool
	interrupt func() // ends the dial in progress, or closes the latest connection
	err       error  // of the last dial
}

func newDialer() *dialer { return &dialer{Dialer: net.Dialer{Timeout: dialTimeout}} }

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := d.dial(network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	return conn, err
}

// dial registers the function for abort before each step that can take long.
func (d *dialer) dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !d.onAbort(cancel) {
		return nil, context.Canceled
	}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	closeConn := func() { _ = conn.Close() }
	if !d.onAbort(closeConn) {
		closeConn()
		return nil, context.Canceled
	}
	return &liveConn{Conn: conn}, nil
}

// onAbort replaces the function that abort calls. It reports false if abort has
// been called already.
func (d *dialer) onAbort(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.interrupt = f
	return !d.aborted
}

// abort ends the dial in progress and closes the connection that Dial returned.
// Further dials fail.
func (d *dialer) abort() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.aborted = true
	if d.interrupt != nil {
		d.interrupt()
	}
}

// explain adds the error of the last dial to the one that hides it.
func (d *dialer) explain(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil && errors.Is(err, nats.ErrNoServers) {
		return fmt.Errorf("%w: %w", err, d.err)
	}
	return err
}
