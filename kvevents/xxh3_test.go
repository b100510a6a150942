package kvevents

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// Hashes of xxhash-rust, which Dynamo uses, at every branch of the algorithm.
func TestXXH3(t *testing.T) {
	t.Parallel()
	for _, v := range goldens(t, "xxh3") {
		n, _ := strconv.Atoi(v[0])
		seed, _ := strconv.ParseUint(v[1], 10, 64)
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(i*7 + 3)
		}
		if got := fmt.Sprintf("%016x", xxh3(data, seed)); got != v[2] {
			t.Errorf("%d bytes, seed %d: got %s, want %s", n, seed, got, v[2])
		}
	}
}

// Hashes of Dynamo's compute_block_hash_for_seq for 40 tokens in blocks of 16.
func TestTokensHashes(t *testing.T) {
	t.Parallel()
	tokens := make([]uint32, 40)
	for i := range tokens {
		tokens[i] = uint32(i)*1000 + 7
	}
	options := map[string]TokensHashOptions{
		"plain": {},
		"lora":  {LoRAName: "adapter-a"},
		"salt":  {Salt: "tenant-1"},
		"both":  {LoRAName: "adapter-a", Salt: "tenant-1"},
		"mm":    {Media: [][]MediaObject{nil, {{Hash: 99}, {Hash: 3}}}},
		"pairs": {Pairs: true},
	}
	vectors := goldens(t, "tokens")
	if len(vectors) != len(options) {
		t.Fatalf("%d vectors, want %d", len(vectors), len(options))
	}
	for _, v := range vectors {
		var got []string
		for _, h := range AppendTokensHashes(nil, tokens, 16, options[v[0]]) {
			got = append(got, fmt.Sprintf("%016x", h))
		}
		if strings.Join(got, " ") != v[1] {
			t.Errorf("%s: got %s, want %s", v[0], got, v[1])
		}
	}
	if got := AppendTokensHashes(nil, tokens[:15], 16, TokensHashOptions{}); got != nil {
		t.Errorf("an incomplete block has hashes %x", got)
	}
}
