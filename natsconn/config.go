package natsconn

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
)

// DefaultURL is the server that is used if Config.URL is empty.
const DefaultURL = "nats://localhost:4222"

// Config holds the addresses of the NATS servers and the credentials for them. The
// zero value means DefaultURL without authentication.
//
// If several methods of authentication are set, one is used, in this order: user
// name with password, Token, NKeySeed, CredentialsFile. Credentials in a URL take
// precedence over all of them, for that server.
//
// TLS is used with tls:// URLs and with servers that require it. If any of the
// TLS fields is set, TLS is required of the server too. Certificate and key files
// are read again for each connection, so that renewed ones need no restart.
type Config struct {
	// URL is one server, nats://HOST[:PORT] or tls://HOST[:PORT], or several
	// servers of a cluster, separated by commas. Only the first needs a scheme.
	URL string

	// Username and Password are set together, unless another method is set.
	Username string
	Password string
	// Token is an authentication token.
	Token string
	// NKeySeed is the seed itself ("SU…"), not the name of a file.
	NKeySeed string
	// CredentialsFile is the path of a .creds file: a user JWT and its seed.
	CredentialsFile string

	// CAFile is the path of a PEM bundle of authorities that replaces the
	// system's.
	CAFile string
	// ClientCertFile and ClientKeyFile are paths of PEM files. Both must be set
	// or neither.
	ClientCertFile string
	ClientKeyFile  string
	// InsecureSkipVerify accepts any server certificate. For tests only.
	InsecureSkipVerify bool

	// Name identifies the connection in the server's list of connections.
	Name string
	// Logger receives Warn when the connection is lost, when it has reconnected,
	// and for asynchronous errors, and Debug when it is closed. Nil discards
	// them.
	Logger *slog.Logger
}

// FromEnv reads a Config from the NATS_* variables that NVIDIA Dynamo reads. An
// empty variable is treated as unset. FromEnv opens no file.
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
// Programs pass os.LookupEnv. The error names the variable and the valid values.
// It contains no secret.
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

// String returns the servers without credentials. It makes a Config safe to print
// and to log.
func (c Config) String() string {
	if c.URL == "" {
		return DefaultURL
	}
	return redact(c.URL)
}

// validate checks the combinations of fields. Its errors name the variables, which
// are what operators set.
func (c Config) validate() error {
	if c.URL != "" {
		if err := checkURLs(c.URL); err != nil {
			return err
		}
	}
	if (c.Username == "") != (c.Password == "") && c.Token+c.NKeySeed+c.CredentialsFile == "" {
		return errors.New("NATS_AUTH_USERNAME and NATS_AUTH_PASSWORD: only one is set: want both or neither")
	}
	if (c.ClientCertFile == "") != (c.ClientKeyFile == "") {
		return fmt.Errorf("NATS_TLS_CLIENT_CERT_PATH %q and NATS_TLS_CLIENT_KEY_PATH %q: want both or neither",
			c.ClientCertFile, c.ClientKeyFile)
	}
	return nil
}

// parseBool accepts the spellings that Dynamo accepts.
func parseBool(name, value string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "1", "true", "on", "yes":
		return true, nil
	case "", "0", "false", "off", "no":
		return false, nil
	}
	return false, fmt.Errorf("%s %q: want 1, true, on, yes, 0, false, off or no", name, value)
}

// checkURLs does not wrap the errors of url.Parse, which quote the password.
func checkURLs(list string) error {
	bad := func(why string) error {
		return fmt.Errorf("NATS_SERVER %q: %s: want nats://HOST[:PORT] or tls://HOST[:PORT], several separated by commas",
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
		// Otherwise an unescaped / or ? in a password would make the user name
		// the host.
		if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return bad("not only a host and a port (in a password, / ? # are written %2F %3F %23)")
		}
	}
	return nil
}

func hasScheme(s string) bool {
	return strings.HasPrefix(s, "nats://") || strings.HasPrefix(s, "tls://")
}

// redact replaces the credentials in a list of URLs, which may be malformed. A
// URL begins at a comma that is followed by a scheme: a comma alone may be part
// of a password.
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
