package discovery

import (
	"encoding/json"
	"strings"
)

// The values of ModelCard.ModelType that this package defines. A model of several
// types has them joined, such as "Chat | Completions".
const (
	ModelChat        = "Chat"
	ModelCompletions = "Completions"
	ModelEmbedding   = "Embedding"
	ModelTensorBased = "TensorBased"
)

// The values of ModelCard.ModelInput.
const (
	InputText   = "Text"   // the worker tokenizes
	InputTokens = "Tokens" // the frontend tokenizes, and needs files that this card does not name
	InputTensor = "Tensor"
)

// The values of ModelCard.WorkerType.
const (
	WorkerAggregated = "aggregated"
	WorkerPrefill    = "prefill"
	WorkerDecode     = "decode"
	WorkerEncode     = "encode"
)

// ModelCard is the smallest card that Dynamo's frontend and KV router accept,
// for [NewModel]. Its fields are those that Dynamo requires of a card, whatever
// their value, and the ones that its router reads. The format is that of
// ModelDeploymentCard in lib/llm/src/model_card.rs of Dynamo 1.6, which accepts
// cards of 1.3 too. Further fields can be added by embedding ModelCard in a
// struct, and any other value can serve as a card as well.
type ModelCard struct {
	DisplayName string `json:"display_name"`

	// Slug is [Slug] of DisplayName. Dynamo rejects a card whose slug has other
	// characters, or that has none.
	Slug string `json:"slug"`

	// SourcePath is the repository or path of the model, if it is not
	// DisplayName.
	SourcePath string `json:"source_path,omitempty"`

	// KVCacheBlockSize is the number of tokens in a block of kv-events. The
	// router must use the same.
	KVCacheBlockSize uint32 `json:"kv_cache_block_size"`

	// MigrationLimit is how often a request may move to another worker.
	MigrationLimit uint32 `json:"migration_limit"`

	ModelType  string `json:"model_type"`
	ModelInput string `json:"model_input"`

	// WorkerType is the part of a request that the worker serves. Dynamo does
	// not consider a worker ready without it.
	WorkerType string `json:"worker_type"`

	RuntimeConfig RuntimeConfig `json:"runtime_config"`

	// TensorModelConfig describes a model of the type ModelTensorBased, and is
	// nil otherwise.
	TensorModelConfig *TensorModelConfig `json:"tensor_model_config,omitempty"`
}

// RuntimeConfig is the part of a [ModelCard] that is determined when the engine
// starts. The zero value is that of a worker without data parallelism.
type RuntimeConfig struct {
	// ContextLength is the limit that the engine enforces; 0 means none given.
	ContextLength uint32 `json:"context_length,omitempty"`

	// TotalKVBlocks is the capacity of the cache of each rank; 0 means none
	// given.
	TotalKVBlocks uint64 `json:"total_kv_blocks,omitempty"`

	// DataParallelStartRank is the first rank of the worker, and
	// DataParallelSize the number of its ranks; 0 means 1, Dynamo's default. The
	// router expects an event source for each rank.
	DataParallelStartRank uint32 `json:"data_parallel_start_rank,omitempty"`
	DataParallelSize      uint32 `json:"data_parallel_size,omitempty"`
}

// TensorModelConfig describes the tensors of a model. Inputs and Outputs are
// JSON objects in Dynamo's format (lib/llm/src/protocols/tensor.rs).
type TensorModelConfig struct {
	Name    string            `json:"name"`
	Inputs  []json.RawMessage `json:"inputs"`
	Outputs []json.RawMessage `json:"outputs"`
}

// MarshalJSON writes empty lists for nil, since Dynamo rejects null.
func (c TensorModelConfig) MarshalJSON() ([]byte, error) {
	type plain TensorModelConfig
	c.Inputs, c.Outputs = append([]json.RawMessage{}, c.Inputs...), append([]json.RawMessage{}, c.Outputs...)
	return json.Marshal(plain(c))
}

// NewTensorCard returns the card of an aggregated worker that serves a tensor
// model. It is the one kind of model for which Dynamo's frontend needs no files.
// Inputs and outputs can be added to its TensorModelConfig.
func NewTensorCard(name string) ModelCard {
	return ModelCard{
		DisplayName: name, Slug: Slug(name),
		ModelType: ModelTensorBased, ModelInput: InputTensor, WorkerType: WorkerAggregated,
		TensorModelConfig: &TensorModelConfig{Name: name},
	}
}

// Slug returns the slug of a model's name as Dynamo derives it: in lower case,
// with an underscore for each character other than a-z, 0-9, - and _, and
// without underscores at its beginning.
func Slug(name string) string {
	slug := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '-':
			return r
		}
		return '_'
	}, strings.ToLower(name))
	return strings.TrimLeft(slug, "_")
}
