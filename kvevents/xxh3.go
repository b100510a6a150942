package kvevents

import (
	"encoding/binary"
	"math/bits"
)

// This file is XXH3 with 64 bits and a seed, by its specification:
// https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md

const (
	prime32x1 = 0x9e3779b1
	prime32x2 = 0x85ebca77
	prime32x3 = 0xc2b2ae3d
	prime64x1 = 0x9e3779b185ebca87
	prime64x2 = 0xc2b2ae3d27d4eb4f
	prime64x3 = 0x165667b19e3779f9
	prime64x4 = 0x85ebca77c2b2ae63
	prime64x5 = 0x27d4eb2f165667c5
	primeMX1  = 0x165667919e3779f9
	primeMX2  = 0x9fb21c651e98df25
)

const (
	stripe        = 64                          // bytes that one accumulation takes
	secretStep    = 8                           // bytes by which the secret advances for each
	stripesInTurn = (192 - stripe) / secretStep // before the accumulators are scrambled
)

// secret is the default secret of XXH3.
var secret = [192]byte{
	0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
	0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
	0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
	0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
	0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
	0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
	0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
	0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
	0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
	0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
	0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
	0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
}

func read32(b []byte) uint64 { return uint64(binary.LittleEndian.Uint32(b)) }
func read64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// fold128 multiplies and combines both halves of the product.
func fold128(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

func avalanche(h uint64) uint64 {
	h = (h ^ h>>37) * primeMX1
	return h ^ h>>32
}

// avalanche64 is the one of XXH64.
func avalanche64(h uint64) uint64 {
	h = (h ^ h>>33) * prime64x2
	h = (h ^ h>>29) * prime64x3
	return h ^ h>>32
}

func mix16(b, key []byte, seed uint64) uint64 {
	return fold128(read64(b)^(read64(key)+seed), read64(b[8:])^(read64(key[8:])-seed))
}

// xxh3 returns the XXH3-64 of b.
func xxh3(b []byte, seed uint64) uint64 {
	switch n := len(b); {
	case n <= 16:
		return xxh3Short(b, seed)
	case n <= 128:
		h := uint64(n) * prime64x1
		for i := (n - 1) / 32; i >= 0; i-- {
			h += mix16(b[16*i:], secret[32*i:], seed) + mix16(b[n-16*(i+1):], secret[32*i+16:], seed)
		}
		return avalanche(h)
	case n <= 240:
		h := uint64(n) * prime64x1
		for i := range 8 {
			h += mix16(b[16*i:], secret[16*i:], seed)
		}
		h = avalanche(h)
		for i := 8; i < n/16; i++ {
			h += mix16(b[16*i:], secret[16*(i-8)+3:], seed)
		}
		return avalanche(h + mix16(b[n-16:], secret[136-17:], seed))
	}
	return xxh3Long(b, seed)
}

func xxh3Short(b []byte, seed uint64) uint64 {
	n := uint64(len(b))
	switch {
	case n > 8:
		low := read64(b) ^ ((read64(secret[24:]) ^ read64(secret[32:])) + seed)
		high := read64(b[n-8:]) ^ ((read64(secret[40:]) ^ read64(secret[48:])) - seed)
		return avalanche(n + bits.ReverseBytes64(low) + high + fold128(low, high))
	case n >= 4:
		seed ^= uint64(bits.ReverseBytes32(uint32(seed))) << 32
		h := (read32(b[n-4:]) + read32(b)<<32) ^ ((read64(secret[8:]) ^ read64(secret[16:])) - seed)
		h ^= bits.RotateLeft64(h, 49) ^ bits.RotateLeft64(h, 24)
		h *= primeMX2
		h = (h ^ (h>>35 + n)) * primeMX2
		return h ^ h>>28
	case n > 0:
		combined := uint64(b[0])<<16 | uint64(b[n/2])<<24 | uint64(b[n-1]) | n<<8
		return avalanche64(combined ^ ((read32(secret[:]) ^ read32(secret[4:])) + seed))
	}
	return avalanche64(seed ^ read64(secret[56:]) ^ read64(secret[64:]))
}

func xxh3Long(b []byte, seed uint64) uint64 {
	key := secret
	for i := 0; i < len(key); i += 16 {
		binary.LittleEndian.PutUint64(key[i:], read64(secret[i:])+seed)
		binary.LittleEndian.PutUint64(key[i+8:], read64(secret[i+8:])-seed)
	}
	acc := [8]uint64{prime32x3, prime64x1, prime64x2, prime64x3, prime64x4, prime32x2, prime64x5, prime32x1}
	for i := range (len(b) - 1) / stripe {
		turn := i % stripesInTurn
		accumulate(&acc, b[i*stripe:], key[turn*secretStep:])
		if turn == stripesInTurn-1 {
			scramble(&acc, key[len(key)-stripe:])
		}
	}
	accumulate(&acc, b[len(b)-stripe:], key[len(key)-stripe-7:])
	h := uint64(len(b)) * prime64x1
	for i := 0; i < 8; i += 2 {
		h += fold128(acc[i]^read64(key[11+8*i:]), acc[i+1]^read64(key[19+8*i:]))
	}
	return avalanche(h)
}

func accumulate(acc *[8]uint64, b, key []byte) {
	b, key = b[:stripe], key[:stripe]
	for i := range acc {
		v := read64(b[8*i:])
		k := v ^ read64(key[8*i:])
		acc[i^1] += v
		acc[i] += (k & 0xffffffff) * (k >> 32)
	}
}

func scramble(acc *[8]uint64, key []byte) {
	for i := range acc {
		acc[i] = (acc[i] ^ acc[i]>>47 ^ read64(key[8*i:])) * prime32x1
	}
}
