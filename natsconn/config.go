package natsconn

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
)

// DefaultURL is the server that an empty Config.URL stands for.
const DefaultURL = "nats://localhost:4222"

// Config says where the NATS servers are and how to get in. The zero value
// means DefaultURL without authentication.
//
// When several ways to authenticate are set, one is used: user name with
// password, else Token, else NKeySeed, else CredentialsFile. Credentials inside
// a URL win over all of them, for that server.
//
// TLS is used with tls:// URLs, with servers that ask for it, and, required
// then, when any of the TLS fields is set. Certificate and key files are read
// again for each connection, so renewed ones need no restart.
type Config struct {
	// URL is one server, nats://HOST[:PORT] or tls://HOST[:PORT], or several
	// of one cluster separated by commas. Only the first needs the scheme.
	URL string

	Username string
	Password string
	Token    string
	// NKeySeed is the seed itself ("SU…"), not the name of a file.
	NKeySeed string
	// CredentialsFile is a .creds file: a user JWT and its seed.
	CredentialsFile string

	// CAFile is a PEM bundle to trust in place of the system's.
	CAFile string
	// ClientCertFile and ClientKeyFile are PEM files; both or neither.
	ClientCertFile string
	ClientKeyFile  string
	// InsecureSkipVerify accepts any server certificate. For tests only.
	InsecureSkipVerify bool

	// Name is what the server lists the connection under.
	Name string
	// Logger hears of lost and regained connections and of asynchronous
	// errors. Nil is silent.
	Logger *slog.Logger
}

// FromEnv reads the NATS_* variables that Dynamo's runtime reads. A variable
// that is empty counts as unset. No file is opened.
//
//	NATS_SERVER                  URL, default DefaultURL
//	NATS_AUTH_USERNAME           Username
//	NATS_AUTH_PASSWORD           Password
//	NATS_AUTH_TOKEN              Token
//	NATS_AUTH_NKEY               NKeySeed
//	NATS_AUTH_CREDENTIALS_FILE   CredentialsFile
//	NATS_TLS_CA_CERT_PATH        CAFile
//	NATS_TLS_CLIENT_CERT_PATH    ClientCertFile
//	NATS_TLS_CLIENT_KEY_PATH     ClientKeyFile
//	NATS_TLS_INSECURE            InsecureSkipVerify: 1 true on yes, 0 false off no
//
// lookup is os.LookupEnv in programs. Errors name the variable and what was
// wanted of it, never a secret.
func FromEnv(lookup func(string) (string, bool)) (Config, error) {
	get := func(name string) string {
		value, _ := lookup(name)
		return value
	}
	insecure, err := parseBool("NATS_TLS_INSECURE", get("NATS_TLS_INSECURE"))
	if err != nil {
		return Config{}, fmt.Errorf("natsconn: %w", err)
	}
	c := Config{
		URL:                get("NATS_SERVER"),
		Username:           get("NATS_AUTH_USERNAME"),
		Password:           get("NATS_AUTH_PASSWORD"),
		Token:              get("NATS_AUTH_TOKEN"),
		NKeySeed:           get("NATS_AUTH_NKEY"),
		CredentialsFile:    get("NATS_AUTH_CREDENTIALS_FILE"),
		CAFile:             get("NATS_TLS_CA_CERT_PATH"),
		ClientCertFile:     get("NATS_TLS_CLIENT_CERT_PATH"),
		ClientKeyFile:      get("NATS_TLS_CLIENT_KEY_PATH"),
		InsecureSkipVerify: insecure,
	}
	if c.URL == "" {
		c.URL = DefaultURL
	}
	if err := c.validate(); err != nil {
		return Config{}, fmt.Errorf("natsconn: %w", err)
	}
	return c, nil
}

// String is the server list without the credentials in it, so that a Config
// can be printed and logged.
func (c Config) String() string {
	if c.URL == "" {
		return DefaultURL
	}
	return redact(c.URL)
}

func (c Config) validate() error {
	if c.URL != "" {
		if err := checkURLs(c.URL); err != nil {
			return err
		}
	}
	if (c.Username == "") != (c.Password == "") && c.Token+c.NKeySeed+c.CredentialsFile == "" {
		return errors.New("NATS_AUTH_USERNAME and NATS_AUTH_PASSWORD: only one is set, want both or neither")
	}
	if (c.ClientCertFile == "") != (c.ClientKeyFile == "") {
		return fmt.Errorf("NATS_TLS_CLIENT_CERT_PATH %q and NATS_TLS_CLIENT_KEY_PATH %q: want both or neither",
			c.ClientCertFile, c.ClientKeyFile)
	}
	return nil
}

func parseBool(name, value string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "1", "true", "on", "yes":
		return true, nil
	case "", "0", "false", "off", "no":
		return false, nil
	}
	return false, fmt.Errorf("%s %q: want 1, true, on, yes, 0, false, off or no", name, value)
}

// checkURLs never wraps the errors of url.Parse: they quote the password.
func checkURLs(list string) error {
	bad := func(why string) error {
		return fmt.Errorf("NATS_SERVER %q: %s, want nats://HOST[:PORT] or tls://HOST[:PORT], several separated by commas",
			redact(list), why)
	}
	if !hasScheme(list) {
		return bad("wrong scheme")
	}
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.TrimSpace(entry)
		if !strings.Contains(entry, "://") {
			entry = "nats://" + entry
		}
		if !hasScheme(entry) {
			return bad("wrong scheme")
		}
		u, err := url.Parse(entry)
		if err != nil {
			return bad("not a URL")
		}
		if u.Hostname() == "" {
			return bad("no host")
		}
		// Else a password with a bare / or ? would turn the user into the host.
		if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return bad("more than a host and a port (in a password write %2F, %3F, %23 for / ? #)")
		}
	}
	return nil
}

func hasScheme(s string) bool {
	return strings.HasPrefix(s, "nats://") || strings.HasPrefix(s, "tls://")
}

// redact replaces the credentials in a list of URLs, well formed or not. Where
// one URL ends and the next begins is told by the scheme and not by the comma
// alone, since a password can hold a comma.
func redact(list string) string {
	at := strings.LastIndex(list, "@")
	if at < 0 {
		return list
	}
	start := 1 + max(strings.LastIndex(list[:at], ",nats://"), strings.LastIndex(list[:at], ",tls://"))
	scheme, _, found := strings.Cut(list[start:at], "://")
	if found {
		scheme += "://"
	} else {
		scheme = ""
	}
	return redact(list[:start]) + scheme + "xxxxx" + list[at:]
}
