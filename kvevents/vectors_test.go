package kvevents

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
)

// goldens returns the vectors of testdata/dynamo-1.6.1.txt whose first column is
// kind, or begins with it and a slash, without that column unless it has a slash.
func goldens(t testing.TB, kind string) [][]string {
	t.Helper()
	return readGoldens(t, "testdata/dynamo-1.6.1.txt", kind)
}

func readGoldens(t testing.TB, file, kind string) (vectors [][]string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		columns := strings.Split(strings.TrimSpace(line), " | ")
		switch {
		case columns[0] == kind:
			vectors = append(vectors, columns[1:])
		case strings.HasPrefix(columns[0], kind+"/"):
			vectors = append(vectors, columns)
		}
	}
	if len(vectors) == 0 {
		t.Fatalf("no vectors of %s", kind)
	}
	return vectors
}

// frame is a message that an engine's publisher sent.
type frame struct {
	name    string
	payload []byte
	json    string // its decoding, or empty
}

// engineFrames returns all payloads of testdata/engine-frames.txt, those of replays
// and of the live stream included.
func engineFrames(t testing.TB) (frames []frame) {
	t.Helper()
	text, err := os.ReadFile("testdata/engine-frames.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	name := ""
	for i, line := range lines {
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "vector "):
			frames = append(frames, frame{words[1], unhex(t, lines[i+3]), lines[i+4]})
		case strings.HasPrefix(line, "replay ") || strings.HasPrefix(line, "## "):
			name = words[1]
		case strings.HasPrefix(line, "reply ") || strings.HasPrefix(line, "live "):
			if payload := words[len(words)-1]; payload != "-" {
				frames = append(frames, frame{name + "/" + words[0], unhex(t, payload), ""})
			}
		}
	}
	if len(frames) < 150 {
		t.Fatalf("%d frames, want them all", len(frames))
	}
	return frames
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dump returns a text by which values are compared; NaN equals itself in it.
func dump(v any) string { return fmt.Sprintf("%+v", v) }
