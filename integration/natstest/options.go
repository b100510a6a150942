package natstest

import (
	"crypto/tls"
	"slices"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/dynplane/dynplane/internal/waittest"
)

// Version is the version of the server.
const Version = server.VERSION

// Options are the settings of a server.
type Options = server.Options

// Option changes the settings of a server before it starts.
type Option func(*Options)

// MaxPayload limits the size of a message.
func MaxPayload(bytes int32) Option { return func(o *Options) { o.MaxPayload = bytes } }

// TLS requires TLS of clients. A nil config leaves it off.
func TLS(config *tls.Config) Option {
	return func(o *Options) { o.TLSConfig, o.TLSTimeout = config, waittest.Patience.Seconds() }
}

// Password requires a user name and a password.
func Password(user, password string) Option {
	return func(o *Options) { o.Username, o.Password = user, password }
}

// Token requires a token.
func Token(token string) Option { return func(o *Options) { o.Authorization = token } }

// NKey requires the key whose public half this is.
func NKey(public string) Option {
	return func(o *Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} }
}

// Denied requires a user name and a password, and denies that user to publish
// or to subscribe to a subject each, unless it is empty. It replaces a user of the
// same name, and keeps others.
func Denied(user, password, publish, subscribe string) Option {
	deny := func(subject string) *server.SubjectPermission {
		if subject == "" {
			return nil
		}
		return &server.SubjectPermission{Deny: []string{subject}}
	}
	return func(o *Options) {
		o.Users = slices.DeleteFunc(slices.Clone(o.Users), func(u *server.User) bool { return u.Username == user })
		o.Users = append(o.Users, &server.User{Username: user, Password: password, Permissions: &server.Permissions{
			Publish: deny(publish), Subscribe: deny(subscribe),
		}})
	}
}

// Allowed adds a user with a password that may publish and subscribe to these
// subjects only.
func Allowed(user, password string, publish, subscribe []string) Option {
	return func(o *Options) {
		o.Users = append(o.Users, &server.User{Username: user, Password: password, Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: publish}, Subscribe: &server.SubjectPermission{Allow: subscribe},
		}})
	}
}

// Operator trusts the accounts of an operator, of which it has one. JetStream
// is off, since it needs a system account.
func Operator(operatorID, accountID, accountJWT string) Option {
	return func(o *Options) {
		accounts := &server.MemAccResolver{}
		_ = accounts.Store(accountID, accountJWT) // into memory: always nil
		o.TrustedKeys, o.AccountResolver, o.JetStream = []string{operatorID}, accounts, false
	}
}

// ReadConfig parses a configuration file.
func ReadConfig(t testing.TB, file string) *Options {
	t.Helper()
	options, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatalf("natstest: %v", err)
	}
	return options
}

// Config replaces all settings but the addresses and directories, which remain
// the test's own.
func Config(options *Options) Option {
	return func(o *Options) {
		*o = *options.Clone()
		o.Port, o.HTTPHost, o.HTTPPort = server.RANDOM_PORT, "127.0.0.1", server.RANDOM_PORT
	}
}
