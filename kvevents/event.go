package kvevents

import (
	"slices"
	"strings"
)

// Kind is the kind of an [Event].
type Kind uint8

const (
	// Unknown is an event that this package does not define, or a known one that
	// is invalid. Of its fields only Tag, Worker, Rank, ID, Raw and Problem are set,
	// as far as they were valid.
	Unknown Kind = iota

	// Stored reports blocks that a cache has stored, or that it used again.
	Stored

	// Removed reports blocks that a cache no longer has.
	Removed

	// Cleared reports that a cache has no blocks left.
	Cleared
)

// String returns the name of k in lower case.
func (k Kind) String() string {
	switch k {
	case Stored:
		return "stored"
	case Removed:
		return "removed"
	case Cleared:
		return "cleared"
	}
	return "unknown"
}

// Optional is a value that may be absent, which differs from its zero value.
type Optional[T any] struct {
	Value   T
	Present bool
}

// Some returns an Optional that is present.
func Some[T any](v T) Optional[T] { return Optional[T]{v, true} }

// Field is a field that this package does not define, kept as it was received.
type Field struct {
	Name  string // its key, or the decimal index in an array
	Value []byte // one msgpack value
}

// Event is one change of a worker's KV cache. Fields that its sender did not set
// are zero.
//
// Raw and the other slices of bytes share memory with the decoded payload, or with
// its msgpack form if it was JSON. Use [Event.Clone] to keep an Event that belongs
// to a [Decoder].
type Event struct {
	Kind Kind
	Tag  string // type on the wire, such as "BlockStored" or "stored"

	Worker uint64           // id of the worker; engines do not send one
	Rank   Optional[uint32] // data-parallel rank
	ID     uint64           // number of the event among those of the worker and rank; engines do not send one

	// Medium is the medium or storage tier as it was sent, such as "GPU", "cpu" or
	// "host_pinned". Dynamo's default "device" is filled in. Tier interprets it.
	Medium string
	Group  Optional[uint32] // index of the KV-cache group

	// Domain is Dynamo's residency domain: "worker", "cache_owner", or empty if
	// none was sent, which for Cleared means all domains.
	Domain string

	// Hashes identify the blocks that are stored or removed, in order. An integer
	// is the 64-bit two's complement of the one that was sent. A binary hash is
	// folded to its last 8 bytes, in big-endian order, which equals the integer
	// that vLLM sends in its place. A text hash is represented by its XXH3-64.
	Hashes    []uint64
	RawHashes []byte // msgpack array of the hashes as sent, or nil if all are integers

	// Parent is the block before the first one. An absent parent is not 0.
	Parent    Optional[uint64]
	RawParent []byte // msgpack value of the parent as sent, or nil if it is an integer

	// TokensHashes are Dynamo's hashes of the tokens of each block, one for each
	// of Hashes. Engines send Tokens instead.
	TokensHashes []uint64

	// Media are the multimodal objects of each block: one list for each of Hashes,
	// or none at all.
	Media [][]MediaObject

	// Tokens are token ids. They need not be len(Hashes) times BlockSize.
	Tokens []uint32

	// Pairs are token ids in place of Tokens if a model with a draft head sends
	// one pair for each position.
	Pairs [][2]uint32

	BlockSize     uint32           // tokens in a block
	StartPosition Optional[uint32] // position of the first block in its sequence, in blocks

	LoRAID   Optional[int64]
	LoRAName string
	Salt     string // cache salt
	Session  string // id of the session that caused the event

	SpecKind      string           // kind of the group, such as "full_attention"
	SlidingWindow Optional[uint32] // tokens, if the kind has a window
	Locality      string           // "LOCAL" or "REMOTE"
	Ownership     string

	ExtraKeys []byte // msgpack value: for each block nil, or a list that is part of its hash
	Lookahead []byte // msgpack value: for each block a list of the token ids after it

	Extra []Field // fields that this package does not define

	// Raw is the whole event as it was sent, in msgpack.
	Raw []byte

	// Problem is the reason why an event with a known tag is Unknown.
	Problem *DecodeError
}

// MediaObject is a multimodal object within a block.
type MediaObject struct {
	Hash    uint64
	Offsets [][2]uint64 // ranges of tokens, relative to the block; the end is exclusive
}

// BlockKey identifies a block in the cache of one worker. It is comparable.
type BlockKey struct {
	Rank   uint32
	Group  Optional[uint32]
	Medium string
	Hash   uint64
}

// Key returns the key of the block e.Hashes[i].
func (e *Event) Key(i int) BlockKey {
	return BlockKey{Rank: e.Rank.Value, Group: e.Group, Medium: e.Medium, Hash: e.Hashes[i]}
}

// Tier returns the storage tier of e.Medium.
func (e *Event) Tier() Tier { return TierOf(e.Medium) }

// Clone returns a copy of e that shares no memory with it or with the payload.
func (e *Event) Clone() Event {
	c := *e
	c.Hashes = slices.Clone(e.Hashes)
	c.TokensHashes = slices.Clone(e.TokensHashes)
	c.Tokens = slices.Clone(e.Tokens)
	c.Pairs = slices.Clone(e.Pairs)
	c.Media = slices.Clone(e.Media)
	for i, objects := range c.Media {
		c.Media[i] = slices.Clone(objects)
		for j := range c.Media[i] {
			c.Media[i][j].Offsets = slices.Clone(objects[j].Offsets)
		}
	}
	for _, b := range []*[]byte{&c.RawHashes, &c.RawParent, &c.ExtraKeys, &c.Lookahead, &c.Raw} {
		*b = slices.Clone(*b)
	}
	c.Extra = cloneFields(e.Extra)
	if e.Problem != nil {
		c.Problem = new(*e.Problem)
	}
	return c
}

func cloneFields(fields []Field) []Field {
	fields = slices.Clone(fields)
	for i := range fields {
		fields[i].Value = slices.Clone(fields[i].Value)
	}
	return fields
}

// Tier is a storage tier of Dynamo.
type Tier uint8

// The tiers.
const (
	TierUnknown    Tier = iota // a medium that this package does not define
	TierDevice                 // memory of an accelerator, the default
	TierHostPinned             // memory of the host
	TierDisk                   // a local disk
	TierExternal               // storage that workers share
)

// String returns Dynamo's name of t, or "unknown".
func (t Tier) String() string {
	return [...]string{"unknown", "device", "host_pinned", "disk", "external"}[t]
}

// TierOf returns the tier of a medium, in Dynamo's vocabulary or in that of an
// engine. An empty medium is the device. Case does not matter.
func TierOf(medium string) Tier {
	switch medium { // the commonest ones, without the conversion below
	case "", "GPU", "device":
		return TierDevice
	case "CPU", "CPU_PINNED", "host_pinned":
		return TierHostPinned
	case "DISK", "STORAGE", "disk":
		return TierDisk
	case "EXTERNAL", "external":
		return TierExternal
	}
	switch strings.ToLower(medium) {
	case "gpu", "device":
		return TierDevice
	case "cpu", "cpu_pinned", "cpu_tier1", "host_pinned":
		return TierHostPinned
	case "disk", "nvme", "storage", "cpu_tier2":
		return TierDisk
	case "external", "network", "remote", "shared":
		return TierExternal
	}
	return TierUnknown
}
