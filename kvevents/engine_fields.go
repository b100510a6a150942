package kvevents

import "strconv"

// field is a field of an engine's event.
type field uint8

const (
	fieldExtra field = iota
	fieldTag
	fieldHashes
	fieldParent
	fieldTokens
	fieldBlockSize
	fieldLoRAID
	fieldMedium
	fieldLoRAName
	fieldExtraKeys
	fieldGroup
	fieldSpecKind
	fieldWindow
	fieldLocality
	fieldOwnership
	fieldSession
	fieldLookahead
	fieldSalt
	fieldMedia
	fieldSeqHashes // Mooncake's
	fieldRank
	fieldID
)

// storedFields are the fields of a stored event that is an array, in all versions.
// Engines have only ever appended to it: TokenSpeed ends with the block size.
var storedFields = [...]field{
	fieldTag, fieldHashes, fieldParent, fieldTokens, fieldBlockSize, fieldLoRAID, fieldMedium, fieldLoRAName,
	fieldExtraKeys, fieldGroup, fieldSpecKind, fieldWindow, fieldLocality, fieldOwnership, fieldSession, fieldLookahead,
}

var (
	removedFields = [...]field{fieldTag, fieldHashes, fieldMedium, fieldGroup}
	clearedFields = [...]field{fieldTag, fieldOwnership}
)

// fieldNames are the names of auxiliary fields for Extra.
var fieldNames = func() (names [fieldID + 1]string) {
	for name, f := range engineNames {
		names[f] = name
	}
	names[fieldSalt] = "cache_salt"
	return names
}()

// engineNames are the names of fields in maps.
var engineNames = map[string]field{
	"type": fieldTag, "block_hashes": fieldHashes, "parent_block_hash": fieldParent, "token_ids": fieldTokens,
	"block_size": fieldBlockSize, "lora_id": fieldLoRAID, "medium": fieldMedium, "lora_name": fieldLoRAName,
	"extra_keys": fieldExtraKeys, "group_idx": fieldGroup, "kv_cache_spec_kind": fieldSpecKind,
	"kv_cache_spec_sliding_window": fieldWindow, "locality": fieldLocality, "ownership": fieldOwnership,
	"session_id": fieldSession, "lookahead_token_ids": fieldLookahead, "cache_salt": fieldSalt, "block_mm_infos": fieldMedia,
	// Mooncake's:
	"event_type": fieldTag, "seq_hashes": fieldSeqHashes, "parent_hash": fieldParent, "additional_salt": fieldSalt,
	"dp_rank": fieldRank, "event_id": fieldID,
}

// fieldOf returns the field with the given name in a map. The commonest ones are
// found without hashing the name.
func fieldOf(name []byte) field {
	switch string(name) {
	case "type":
		return fieldTag
	case "block_hashes":
		return fieldHashes
	case "parent_block_hash":
		return fieldParent
	case "token_ids":
		return fieldTokens
	case "block_size":
		return fieldBlockSize
	case "medium":
		return fieldMedium
	}
	return engineNames[string(name)]
}

// positions are the names of the elements of an array.
var positions = func() (names [32]string) {
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	return names
}()
