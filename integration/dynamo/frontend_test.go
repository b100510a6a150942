package dynamo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/internal/waittest"
)

// frontend is an HTTP server of Dynamo with a KV router.
type frontend struct {
	url  string
	http *http.Client
}

// startFrontend starts a frontend that shares its requests with the others.
func (d *deployment) startFrontend(t *testing.T) *frontend {
	t.Helper()
	port := freePort(t)
	d.run(t, "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", port,
		"--router-mode", "kv", "--router-replica-sync", "--kv-cache-block-size", "16")
	transport := &http.Transport{DisableKeepAlives: true}
	return &frontend{url: "http://127.0.0.1:" + port, http: &http.Client{Transport: transport, Timeout: waittest.Patience}}
}

// freePort returns a port outside of the range that the kernel assigns, since
// frontends cannot report one that it has assigned to them.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(20_000 + rand.IntN(10_000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// awaitModel waits until the frontend lists a model, or lists it no more.
func (f *frontend) awaitModel(t *testing.T, name string, listed bool) {
	t.Helper()
	waittest.Eventually(t, fmt.Sprintf("%s is listed: %v", name, listed), func() bool {
		var models struct {
			Data []struct {
				ID string `json:"id"`
			} `json:"data"`
		}
		answer, err := f.http.Get(f.url + "/v1/models")
		if err != nil {
			return false
		}
		defer func() { _ = answer.Body.Close() }()
		if json.NewDecoder(answer.Body).Decode(&models) != nil {
			return false
		}
		found := false
		for _, model := range models.Data {
			found = found || model.ID == name
		}
		return found == listed
	})
}

// completion is the answer to a prompt.
type completion struct {
	Usage struct {
		Details struct {
			CachedTokens int `json:"cached_tokens"` // by the worker
		} `json:"prompt_tokens_details"`
	} `json:"usage"`
	Nvext struct {
		Worker struct {
			ID uint64 `json:"prefill_worker_id"`
		} `json:"worker_id"`
		Timing struct {
			HitRate float64 `json:"kv_hit_rate"` // by the frontend's router
		} `json:"timing"`
	} `json:"nvext"`
}

func (f *frontend) complete(prompt string) (c completion, err error) {
	request, err := json.Marshal(map[string]any{"model": "tiny", "prompt": prompt, "max_tokens": 4,
		"nvext": map[string]any{"extra_fields": []string{"worker_id", "timing"}}})
	if err != nil {
		return c, err
	}
	answer, err := f.http.Post(f.url+"/v1/completions", "application/json", bytes.NewReader(request))
	if err != nil {
		return c, err
	}
	defer func() { _ = answer.Body.Close() }()
	if err := json.NewDecoder(answer.Body).Decode(&c); err != nil {
		return c, fmt.Errorf("%s: %w", answer.Status, err)
	}
	if c.Nvext.Worker.ID == 0 {
		return c, fmt.Errorf("%s: no worker: %+v", answer.Status, c)
	}
	return c, nil
}

// words is the size of the vocabulary, beside three special tokens.
const words = 297

// prompt returns four blocks of words that differ from those of any other n.
func prompt(n int) string {
	text := []string{fmt.Sprint("w", n%words), fmt.Sprint("w", n/words)}
	for i := len(text); i < 64; i++ {
		text = append(text, fmt.Sprint("w", i))
	}
	return strings.Join(text, " ")
}

// tinyModel writes what a mocked engine and a frontend read of a model: its
// vocabulary and its settings. It returns their directory.
func tinyModel(t *testing.T) string {
	t.Helper()
	vocabulary := map[string]int{"<unk>": 0, "<s>": 1, "</s>": 2}
	for i := range words {
		vocabulary[fmt.Sprint("w", i)] = len(vocabulary)
	}
	files := map[string]any{
		"tokenizer.json": map[string]any{
			"version": "1.0", "added_tokens": []any{},
			"pre_tokenizer": map[string]any{"type": "Whitespace"},
			"model":         map[string]any{"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
		},
		"tokenizer_config.json": map[string]any{
			"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4096,
			"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
			"chat_template": `{{ messages[-1]["content"] }}`,
		},
		"generation_config.json": map[string]any{"bos_token_id": 1, "eos_token_id": 2},
		"config.json": map[string]any{
			"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "torch_dtype": "float16",
			"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5,
			"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
			"vocab_size": len(vocabulary), "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2,
		},
	}
	dir := t.TempDir()
	for name, content := range files {
		data, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
