package examples_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadme compares the Go snippets of README.md with regions of the examples,
// which begin at a line "// README: NAME" and end at the next such line. Each
// snippet must be a region, and each region a snippet; one named "end" is
// neither.
func TestReadme(t *testing.T) {
	t.Parallel()
	regions := map[string]string{} // names by text
	files, err := filepath.Glob("*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for name, text := range regionsOf(t, file) {
			regions[text] = name
		}
	}
	snippets := snippetsOf(t, "../README.md")
	if len(snippets) == 0 {
		t.Error("README.md has no Go snippets")
	}
	for _, text := range snippets {
		if _, ok := regions[text]; !ok {
			t.Errorf("no region of examples/ equals this snippet of README.md:\n%s", text)
		}
		delete(regions, text)
	}
	for text, name := range regions {
		t.Errorf("no snippet of README.md equals the region %q:\n%s", name, text)
	}
}

// TestReadmeSnippetsAreOneProgram compiles them together, with the imports that
// README.md names.
func TestReadmeSnippetsAreOneProgram(t *testing.T) {
	t.Parallel()
	imports := []string{
		"context", "errors", "fmt", "math/rand/v2", "os", "os/signal", "syscall", "time",
		"github.com/dynplane/dynplane/discovery",
		"github.com/dynplane/dynplane/discovery/backend",
		"github.com/dynplane/dynplane/eventplane",
	}
	source := "package main\n"
	for _, path := range imports {
		source += fmt.Sprintf("import %q\n", path)
	}
	source += strings.Join(snippetsOf(t, "../README.md"), "\n\n")
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("go vet: %v: %s", err, out)
	}
}

func regionsOf(t *testing.T, file string) map[string]string {
	t.Helper()
	regions := map[string]string{}
	name := "end"
	for line := range strings.Lines(read(t, file)) {
		if next, ok := strings.CutPrefix(line, "// README: "); ok {
			name = strings.TrimSpace(next)
			continue
		}
		regions[name] += line
	}
	delete(regions, "end")
	for name, text := range regions {
		regions[name] = strings.TrimSpace(text)
	}
	return regions
}

func snippetsOf(t *testing.T, file string) (snippets []string) {
	t.Helper()
	parts := strings.Split(read(t, file), "\n```go\n")
	for _, part := range parts[1:] {
		text, _, ok := strings.Cut(part, "\n```\n")
		if !ok {
			t.Fatalf("%s: a snippet has no end", file)
		}
		snippets = append(snippets, strings.TrimSpace(text))
	}
	return snippets
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
