package kvevents

import (
	"strconv"
	"strings"
)

// saltMark precedes the salt among vLLM's extra keys, if Dynamo's frontend chose it.
const saltMark = "dynamo-cache-salt:"

// extraKeys is what vLLM's extra keys mean to Dynamo.
type extraKeys struct {
	lora, salt string
	media      [][]MediaObject // for each block, or nil if there is none
}

// read reads the extra keys of e and returns the number of blocks, from the first one
// on, whose keys Dynamo's form can express, or that of all blocks if lenient.
func (k *extraKeys) read(e *Event, lenient bool) int {
	all := len(e.Hashes)
	if len(e.ExtraKeys) == 0 {
		return all
	}
	r := reader{data: e.ExtraKeys}
	blocks, ok := r.array()
	if !ok {
		return k.unless(lenient, all)
	}
	for i := range min(blocks, all) {
		if !k.block(&r, i, all) && !lenient {
			return i
		}
	}
	return all
}

func (k *extraKeys) unless(lenient bool, all int) int {
	if lenient {
		return all
	}
	return 0
}

// block reads the keys of block i. It reports whether all have a meaning to Dynamo.
func (k *extraKeys) block(r *reader, i, all int) bool {
	if r.nil() {
		return true
	}
	n, ok := r.array()
	if !ok {
		r.skip()
		return false
	}
	lora, known := k.lora, true
	for range n {
		text, isStr := r.bytes(kindStr)
		if !isStr {
			text = r.mediaKey()
		}
		salt, marked := strings.CutPrefix(string(text), saltMark)
		hash, isMedia := mediaHash(text)
		switch {
		case isStr && lora != "" && string(text) == lora:
			lora = "" // once: a salt may be equal to it
		case isStr && marked && salt != "":
			if k.salt == "" {
				k.salt = salt
			}
		case isStr && k.salt != "" && string(text) == k.salt:
		case isMedia:
			if k.media == nil {
				k.media = make([][]MediaObject, all)
			}
			k.media[i] = append(k.media[i], MediaObject{Hash: hash})
		default:
			known = false
		}
	}
	return known
}

// mediaKey reads a pair of the identifier of a multimodal object and its offset, and
// returns the identifier, or nil for any other value.
func (r *reader) mediaKey() []byte {
	begin := r.pos
	var id []byte
	if n, ok := r.array(); ok && n == 2 {
		id, _ = r.bytes(kindStr)
	}
	r.pos = begin
	r.skip()
	return id
}

// mediaHash returns the hash within an identifier that Dynamo's frontend chose: 16
// hexadecimal digits and 48 zeros.
func mediaHash(id []byte) (uint64, bool) {
	if len(id) != 64 || strings.Trim(string(id[16:]), "0") != "" {
		return 0, false
	}
	v, err := strconv.ParseUint(string(id[:16]), 16, 64)
	return v, err == nil
}
