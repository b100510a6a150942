package discoverytest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGuideQuotesTheCode compares the code in docs/adding-a-store.md with the files
// from which it is quoted.
func TestGuideQuotesTheCode(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	guide, err := os.ReadFile(filepath.Join(root, "docs", "adding-a-store.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(guide), "```go\n// ")[1:]
	if len(blocks) == 0 {
		t.Fatal("the guide quotes no code")
	}
	for _, block := range blocks {
		code, _, _ := strings.Cut(block, "```")
		path, code, _ := strings.Cut(code, "\n")
		source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(path)))
		if err != nil {
			t.Error(err)
		} else if !strings.Contains(string(source), code) {
			t.Errorf("%s no longer contains:\n%s", path, code)
		}
	}
}
