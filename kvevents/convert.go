package kvevents

import (
	"math"
	"slices"
)

// Loss is a reason why Dynamo's form cannot express the blocks of an engine's event.
type Loss uint8

// The reasons.
const (
	LossUnknown   Loss = iota // the event is Unknown; counts events
	LossGroup                 // the group is not one of full attention
	LossBlockSize             // the block size is not that of the converter
	LossTokens                // the token ids are not those of the blocks, one after the other
	LossMedium                // the medium has no tier
	LossLocality              // the blocks are not local to the worker
	LossOwnership             // the blocks have an owner other than the engine
	LossLoRA                  // the LoRA adapter has an id but no name
	LossExtraKeys             // the hash depends on keys that Dynamo's hash of the tokens does not include
	LossSalt                  // the salt cannot be determined
	LossDuplicate             // a block occurs twice, or is its own parent
	lossCount
)

// String returns a short name of l, for labels.
func (l Loss) String() string {
	names := [...]string{"unknown", "group", "block_size", "tokens", "medium", "locality", "ownership", "lora", "extra_keys", "salt", "duplicate"}
	if int(l) < len(names) {
		return names[l]
	}
	return "other"
}

// Losses returns all values of Loss.
func Losses() []Loss {
	all := make([]Loss, lossCount)
	for i := range all {
		all[i] = Loss(i)
	}
	return all
}

// Converter converts the events of one engine to those of a Dynamo worker: hashes of
// tokens in place of token ids, tiers in place of media. Events that would mislead a
// router are withheld, and counted. It remembers the groups of the engine, and the
// blocks that have a salt, so it must see all events in order.
//
// A Converter must not be used by several goroutines at once.
type Converter struct {
	Worker uint64 // id of the worker that the events are attributed to

	// BlockSize is the number of tokens in a block. If it is 0, the first stored
	// blocks of the engine determine it.
	BlockSize uint32

	// Lenient also converts blocks that depend on something which Dynamo cannot
	// express, as Dynamo's own relay does: extra keys such as identifiers of images or
	// salts without Dynamo's mark, and LoRA adapters without a name. A router then
	// mistakes them for the blocks of equal tokens.
	Lenient bool

	lost   [lossCount]uint64
	groups map[rankGroup]bool  // whether the group has full attention
	salts  map[rankHash]string // salts of blocks that have one
	seen   map[uint64]struct{} // hashes of the event
	tokens []uint32            // of pairs
	out    Event
}

type rankGroup struct{ rank, group uint32 }

type rankHash struct {
	rank uint32
	hash uint64
}

// Limits of what an engine can make a Converter remember.
const (
	maxGroups = 1 << 10
	maxSalted = 1 << 20
)

// ambiguous stands for the salt of a block that was stored with several.
const ambiguous = "\x00"

// Lost returns the number of blocks that were withheld for a reason.
func (c *Converter) Lost(l Loss) uint64 { return c.lost[min(l, lossCount-1)] }

// Convert returns the event in Dynamo's form, without an ID, or nil if nothing of it
// can be expressed. Blocks after one that is withheld are withheld too, since they
// would have no parent. The result is valid until the next call, and shares memory
// with e.
func (c *Converter) Convert(e *Event) *Event {
	count := uint64(len(e.Hashes))
	loss, ok := c.admit(e)
	if !ok {
		c.lost[loss] += max(1, count)
		return nil
	}
	c.out = Event{
		Kind: e.Kind, Tag: e.Kind.String(), Worker: c.Worker, Rank: Some(e.Rank.Value),
		Medium: e.Tier().String(), Domain: "worker", Session: e.Session, TokensHashes: c.out.TokensHashes[:0],
	}
	switch e.Kind {
	case Cleared:
		c.forget(e.Rank.Value)
		c.out.TokensHashes, c.out.Medium = nil, TierDevice.String()
		return &c.out
	case Removed:
		c.unsalt(e)
		c.out.Hashes = e.Hashes
	default:
		n, loss := c.store(e)
		c.lost[loss] += count - uint64(n)
		c.out.Hashes, c.out.Parent = e.Hashes[:n], e.Parent
	}
	if len(c.out.Hashes) == 0 {
		return nil
	}
	return &c.out
}

// admit returns the reason, if any, why no block of e can be converted.
func (c *Converter) admit(e *Event) (Loss, bool) {
	switch {
	case e.Kind == Unknown:
		return LossUnknown, false
	case e.Ownership != "":
		return LossOwnership, false
	case e.Kind == Cleared:
		return 0, true
	case e.Locality != "" && e.Locality != "LOCAL":
		return LossLocality, false
	case e.Tier() == TierUnknown:
		return LossMedium, false
	case !c.fullAttention(e):
		return LossGroup, false
	case e.Kind == Removed:
		return 0, true
	case e.LoRAID.Present && e.LoRAName == "" && !c.Lenient:
		return LossLoRA, false
	case c.hasDuplicate(e):
		return LossDuplicate, false
	}
	return 0, true
}

// fullAttention reports whether the group of e has the whole context. vLLM sends the
// kind of a group with stored blocks only.
func (c *Converter) fullAttention(e *Event) bool {
	key := rankGroup{e.Rank.Value, e.Group.Value}
	switch e.SpecKind {
	case "":
		if !e.Group.Present {
			return true
		}
		full, learned := c.groups[key]
		return full || !learned && key.group == 0
	case "full_attention", "mla_attention", "sink_full_attention":
		c.learn(e, key, true)
		return true
	}
	c.learn(e, key, false)
	return false
}

func (c *Converter) learn(e *Event, key rankGroup, full bool) {
	if c.groups == nil {
		c.groups = map[rankGroup]bool{}
	}
	if e.Kind == Stored && e.Group.Present && len(c.groups) < maxGroups {
		c.groups[key] = full
	}
}

// hasDuplicate reports whether a hash occurs twice among the blocks and their parent.
func (c *Converter) hasDuplicate(e *Event) bool {
	if len(e.Hashes) <= 16 {
		for i, h := range e.Hashes {
			if e.Parent.Present && e.Parent.Value == h || slices.Contains(e.Hashes[:i], h) {
				return true
			}
		}
		return false
	}
	if c.seen == nil {
		c.seen = map[uint64]struct{}{}
	}
	clear(c.seen)
	for _, h := range e.Hashes {
		c.seen[h] = struct{}{}
	}
	_, parent := c.seen[e.Parent.Value]
	return len(c.seen) != len(e.Hashes) || e.Parent.Present && parent
}

// store fills TokensHashes and Media of the result and returns the number of blocks
// that can be converted, and the reason why not all of them.
func (c *Converter) store(e *Event) (n int, loss Loss) {
	if len(e.Hashes) == 0 {
		return 0, 0
	}
	if len(e.TokensHashes) == len(e.Hashes) { // Dynamo's already
		c.out.TokensHashes, c.out.Media = append(c.out.TokensHashes, e.TokensHashes...), e.Media
		return len(e.Hashes), 0
	}
	if c.BlockSize == 0 {
		c.BlockSize = e.BlockSize
	}
	tokens := e.Tokens
	switch {
	case e.BlockSize != c.BlockSize || c.BlockSize == 0:
		return 0, LossBlockSize
	case uint64(len(e.Tokens)+len(e.Pairs)) != uint64(len(e.Hashes))*uint64(c.BlockSize) || c.BlockSize > math.MaxInt32:
		return 0, LossTokens
	case len(e.Pairs) > 0:
		tokens = c.pairTokens(e.Pairs)
	}
	keys := extraKeys{lora: e.LoRAName, salt: e.Salt}
	n = keys.read(e, c.Lenient)
	salt, ok := c.salt(e, keys.salt)
	if !ok {
		return 0, LossSalt
	}
	media := keys.media
	if len(e.Media) == len(e.Hashes) {
		media = e.Media
	}
	if len(media) > 0 {
		c.out.Media = media[:n]
	}
	end := n * int(c.BlockSize)
	if len(e.Pairs) > 0 && n > 0 {
		end++
	}
	c.out.TokensHashes = AppendTokensHashes(c.out.TokensHashes, tokens[:end], int(c.BlockSize), TokensHashOptions{
		LoRAName: e.LoRAName, Salt: salt, Media: media, Pairs: len(e.Pairs) > 0,
	})
	return n, LossExtraKeys
}

// pairTokens returns the first token of each pair, and the second of the last.
func (c *Converter) pairTokens(pairs [][2]uint32) []uint32 {
	c.tokens = kept(c.tokens)
	for _, p := range pairs {
		c.tokens = append(c.tokens, p[0])
	}
	c.tokens = append(c.tokens, pairs[len(pairs)-1][1])
	return c.tokens
}

// salt returns the salt of the blocks of e: their own, or that of their parent, since
// vLLM names it only with the first block of a prompt. It remembers the blocks.
func (c *Converter) salt(e *Event, own string) (string, bool) {
	rank := e.Rank.Value
	if own == "" && e.Parent.Present {
		own = c.salts[rankHash{rank, e.Parent.Value}]
	}
	if own == ambiguous {
		return "", false
	}
	if own != "" && len(c.salts)+len(e.Hashes) > maxSalted {
		return "", false
	}
	for _, h := range e.Hashes {
		key := rankHash{rank, h}
		switch before, salted := c.salts[key]; {
		case salted && before != own:
			c.salts[key] = ambiguous
		case own != "":
			if c.salts == nil {
				c.salts = map[rankHash]string{}
			}
			c.salts[key] = own
		}
	}
	return own, true
}

func (c *Converter) unsalt(e *Event) {
	for _, h := range e.Hashes {
		key := rankHash{e.Rank.Value, h}
		if c.salts[key] != ambiguous {
			delete(c.salts, key)
		}
	}
}

// forget forgets the salted blocks of a rank.
func (c *Converter) forget(rank uint32) {
	for key := range c.salts {
		if key.rank == rank {
			delete(c.salts, key)
		}
	}
}
