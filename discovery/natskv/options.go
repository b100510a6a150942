package natskv

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Options are the settings of a [Store]. The zero value is useful.
type Options struct {
	// Bucket names the KV bucket: letters, digits, _ and -. Empty means
	// "dynplane". The entries are in the stream KV_<Bucket>, and are written to
	// the stream DYNPLANE_<Bucket>.
	Bucket string

	// TTL is how long a registration outlives its owner: whole seconds, at
	// least 1 s, and at least 10 s in a bucket with several replicas, where
	// the election of a leader takes seconds. Zero means 10 s.
	TTL time.Duration

	// Replicas is 1, 3 or 5; zero means 1. Memory keeps the bucket in memory
	// instead of in files. Both apply only when the store creates the bucket;
	// an existing bucket with other settings is used as it is, with a warning.
	Replicas int
	Memory   bool

	// APIPrefix is the prefix of the JetStream API's subjects, for an account
	// that imports JetStream from another one; Domain names a JetStream domain
	// and stands for the prefix $JS.<Domain>.API. At most one of the two may be
	// set. With neither, the prefix is $JS.API.
	APIPrefix string
	Domain    string

	// Logger receives warnings when registrations are lost or recovered; nil
	// disables logging.
	Logger *slog.Logger

	// Now is the local clock; nil means time.Now. Deadlines are in the server's
	// time: the store measures the offset between the two.
	Now func() time.Time
}

// ErrBucket is wrapped by the error that refuses a bucket or server which
// cannot hold leases. The text lists the missing properties.
var ErrBucket = errors.New("the bucket cannot hold leases")

const (
	defaultBucket    = "dynplane"
	defaultTTL       = 10 * time.Second
	replicatedTTL    = 10 * time.Second
	defaultAPIPrefix = "$JS.API"
)

// withDefaults returns the options as they are used, or what is wrong with them.
func (o Options) withDefaults() (Options, error) {
	if o.Bucket == "" {
		o.Bucket = defaultBucket
	}
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := o.validate(); err != nil {
		return o, err
	}
	switch {
	case o.Domain != "":
		o.APIPrefix = "$JS." + o.Domain + ".API"
	case o.APIPrefix == "":
		o.APIPrefix = defaultAPIPrefix
	}
	return o, nil
}

func (o Options) validate() error {
	if strings.Trim(o.Bucket, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return fmt.Errorf("bucket %q: want only letters, digits, _ and -", o.Bucket)
	}
	if o.TTL < time.Second || o.TTL%time.Second != 0 {
		return fmt.Errorf("TTL %v: want whole seconds, at least 1s", o.TTL)
	}
	if o.Replicas != 1 && o.Replicas != 3 && o.Replicas != 5 {
		return fmt.Errorf("%d replicas: want 1, 3 or 5", o.Replicas)
	}
	if err := o.validatePrefix(); err != nil {
		return err
	}
	return o.checkTTL(o.Replicas)
}

func (o Options) validatePrefix() error {
	if o.APIPrefix != "" && o.Domain != "" {
		return fmt.Errorf("JetStream API prefix %q and domain %q: want at most one of them", o.APIPrefix, o.Domain)
	}
	if strings.ContainsAny(o.Domain, ".*> \t\r\n") {
		return fmt.Errorf("JetStream domain %q: want one subject token", o.Domain)
	}
	for token := range strings.SplitSeq(o.APIPrefix, ".") {
		if o.APIPrefix != "" && (token == "" || strings.ContainsAny(token, "*> \t\r\n")) {
			return fmt.Errorf("JetStream API prefix %q: want subject tokens without wildcards, and no dot at the end", o.APIPrefix)
		}
	}
	return nil
}

func (o Options) checkTTL(replicas int) error {
	if replicas > 1 && o.TTL < replicatedTTL {
		return fmt.Errorf("TTL %v with %d replicas: want at least %v, since the election of a leader takes seconds", o.TTL, replicas, replicatedTTL)
	}
	return nil
}

// All writes go to the write stream. The bucket is a second stream that the server
// fills from it with the entries: readers search no heartbeats, and heartbeats
// wait for no reader.
func (o Options) writeStream() string { return "DYNPLANE_" + o.Bucket }
func (o Options) readStream() string  { return "KV_" + o.Bucket }

func (o Options) entrySubject(key string) string { return "dynplane.entry." + o.Bucket + "." + key }
func (o Options) leaseSubject(key string) string { return "dynplane.lease." + o.Bucket + "." + key }

// readSubject is the subject of an entry in the bucket.
func (o Options) readSubject(key string) string { return "$KV." + o.Bucket + "." + key }

// advisories is the prefix of the server's messages on what becomes of streams.
const advisories = "$JS.EVENT.ADVISORY."

// apiSubject returns the subject of a JetStream API request on a stream.
func (o Options) apiSubject(operation, stream string) string {
	return o.APIPrefix + "." + operation + "." + stream
}

func (o Options) storage() jetstream.StorageType {
	if o.Memory {
		return jetstream.MemoryStorage
	}
	return jetstream.FileStorage
}

// writeConfig is the stream of entries and leases. Its sequences begin at first,
// which identifies it among streams of the same name that were deleted.
func (o Options) writeConfig(first uint64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              o.writeStream(),
		Description:       "entries and leases of the dynplane bucket " + o.Bucket,
		Subjects:          []string{o.entrySubject(">"), o.leaseSubject(">")},
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardOld,
		Storage:           o.storage(),
		Replicas:          o.Replicas,
		FirstSeq:          first,
		AllowMsgTTL:       true,
		AllowMsgSchedules: true,
		AllowDirect:       true,
		AllowRollup:       true,
		DenyDelete:        true,
	}
}

// writeStreamKey is the key in the metadata of the bucket under which the first
// sequence of its write stream is stored.
const writeStreamKey = "dynplane.write_stream"

// readConfig is the stream of the bucket. It has no subjects, so that only its
// source writes to it: other KV clients can read it, and their writes fail.
func (o Options) readConfig(first uint64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              o.readStream(),
		Description:       "entries of living owners, sourced from " + o.writeStream(),
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardOld,
		Storage:           o.storage(),
		Replicas:          o.Replicas,
		AllowMsgTTL:       true,
		AllowDirect:       true,
		AllowRollup:       true,
		DenyDelete:        true,
		Metadata:          map[string]string{writeStreamKey: strconv.FormatUint(first, 10)},
		Sources: []*jetstream.StreamSource{{
			Name: o.writeStream(),
			SubjectTransforms: []jetstream.SubjectTransformConfig{{
				Source: o.entrySubject(">"), Destination: o.readSubject(">"),
			}},
		}},
	}
}
