package kvevents

import (
	"encoding/binary"
	"slices"
)

// tokensSeed is Dynamo's seed of all hashes of tokens.
const tokensSeed = 1337

// TokensHashOptions are what Dynamo mixes into the hash of a block's tokens.
type TokensHashOptions struct {
	LoRAName string
	Salt     string
	Media    [][]MediaObject // for each block; may be shorter
	Pairs    bool            // blocks overlap by one token, as those of models with a draft head do
}

// AppendTokensHashes appends Dynamo's hash of each complete block of tokens to dst
// and returns the extended slice. A router computes those of a prompt in the same
// way, and compares them with Event.TokensHashes.
func AppendTokensHashes(dst []uint64, tokens []uint32, blockSize int, opts TokensHashOptions) []uint64 {
	if blockSize <= 0 {
		return dst
	}
	seed := uint64(tokensSeed)
	if opts.LoRAName != "" {
		seed += xxh3([]byte(opts.LoRAName), 0)
	}
	if opts.Salt != "" {
		seed += xxh3([]byte(opts.Salt), 1)
	}
	window := blockSize
	if opts.Pairs {
		window++
	}
	if len(tokens) < window {
		return dst
	}
	blocks := (len(tokens)-window)/blockSize + 1
	dst = slices.Grow(dst, blocks)
	var space [1024]byte // 256 tokens
	buf := space[:0]
	for i := range blocks {
		buf = buf[:0]
		for _, token := range tokens[i*blockSize : i*blockSize+window] {
			buf = binary.LittleEndian.AppendUint32(buf, token)
		}
		if i < len(opts.Media) {
			buf = appendMedia(buf, opts.Media[i])
		}
		dst = append(dst, xxh3(buf, seed))
	}
	return dst
}

// appendMedia appends the hashes of the objects in ascending order.
func appendMedia(dst []byte, objects []MediaObject) []byte {
	if len(objects) == 0 {
		return dst
	}
	hashes := make([]uint64, len(objects))
	for i, o := range objects {
		hashes[i] = o.Hash
	}
	slices.Sort(hashes)
	for _, h := range hashes {
		dst = binary.LittleEndian.AppendUint64(dst, h)
	}
	return dst
}
