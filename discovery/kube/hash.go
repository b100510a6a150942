package kube

import (
	"encoding/binary"
	"math/bits"
)

// maxID is the greatest integer that is exact in the JSON of Kubernetes.
const maxID = 1<<53 - 1

// HashPodName returns the instance id that Dynamo gives a worker whose object has
// the given name: the low 53 bits of SipHash-1-3, with a key of zeros, of the name
// and a byte 0xff.
func HashPodName(name string) uint64 {
	return sip13(append([]byte(name), 0xff)) & maxID
}

// sip13 computes SipHash with one round for each block, three at the end and a key
// of zeros (Aumasson and Bernstein, "SipHash: a fast short-input PRF").
func sip13(data []byte) uint64 {
	s := sipState{0x736f6d6570736575, 0x646f72616e646f6d, 0x6c7967656e657261, 0x7465646279746573}
	last := uint64(len(data)) << 56
	for ; len(data) >= 8; data = data[8:] {
		s.compress(binary.LittleEndian.Uint64(data))
	}
	var tail [8]byte
	copy(tail[:], data)
	s.compress(last | binary.LittleEndian.Uint64(tail[:]))
	s[2] ^= 0xff
	for range 3 {
		s.round()
	}
	return s[0] ^ s[1] ^ s[2] ^ s[3]
}

// sipState is the state v0 to v3 of SipHash.
type sipState [4]uint64

func (s *sipState) compress(block uint64) {
	s[3] ^= block
	s.round()
	s[0] ^= block
}

func (s *sipState) round() {
	s[0] += s[1]
	s[2] += s[3]
	s[1] = bits.RotateLeft64(s[1], 13) ^ s[0]
	s[3] = bits.RotateLeft64(s[3], 16) ^ s[2]
	s[0] = bits.RotateLeft64(s[0], 32)
	s[2] += s[1]
	s[0] += s[3]
	s[1] = bits.RotateLeft64(s[1], 17) ^ s[2]
	s[3] = bits.RotateLeft64(s[3], 21) ^ s[0]
	s[2] = bits.RotateLeft64(s[2], 32)
}
