// Command prose reports words that the comments, string literals and documents
// of this repository avoid, and fails if there are any.
package main

import (
	"cmp"
	"fmt"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	// Verbs of persons, persons without a role, idioms of this project, and
	// sentences that begin with a clause in place of a noun.
	banned = regexp.MustCompile(`(?i)\b(hear(s|d|ing)?|unheard|say(s|ing)?|said|tell(s|ing)?|told|knows?|believe[sd]?|ask(s|ed|ing)?|wants|` +
		`nobody|somebody|anybody|everybody|whoever|tr(y|ies|ied|ying) on|(un)?disturb(s|ed|ance|ances)?|foreign(ers?)?)\b|` +
		`(?-i:(^|[-*|.:;!)] |["\x60])(Who|What(ever)?) [^?]*$)`)
	code    = regexp.MustCompile("`[^`]*`")   // and fences
	except  = []string{"Ask sends a command"} // phrases that stay
	plain   = regexp.MustCompile(`\.([ch]|py|ya?ml)$|(^|/)(Makefile|Dockerfile|scripts/[a-z]+)$`)
	skipped = regexp.MustCompile(`(^|/)(bin|testdata|\.git|scripts/prose)$`)
)

// check prints the banned words of a text and returns their number.
func check(file string, line int, text string) (found int) {
	for i, l := range strings.Split(text, "\n") {
		for _, phrase := range except {
			l = strings.ReplaceAll(l, phrase, "")
		}
		for _, word := range banned.FindAllString(strings.TrimSpace(strings.TrimPrefix(l, "//")), -1) {
			fmt.Printf("%s:%d: %s\n", file, line+i, strings.Trim(word, " .:;!)\"`"))
			found++
		}
	}
	return found
}

// checkGo checks comments and string literals.
func checkGo(file string, text []byte) (found int) {
	f := token.NewFileSet().AddFile(file, -1, len(text))
	var s scanner.Scanner
	s.Init(f, text, nil, scanner.ScanComments)
	for pos, tok, lit := s.Scan(); tok != token.EOF; pos, tok, lit = s.Scan() {
		if tok == token.COMMENT || tok == token.STRING {
			found += check(file, f.Line(pos), lit)
		}
	}
	return found
}

func main() {
	found := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		ext := filepath.Ext(path)
		if err != nil || entry.IsDir() && skipped.MatchString(path) {
			return cmp.Or(err, fs.SkipDir)
		} else if ext != ".go" && ext != ".md" && !plain.MatchString(path) {
			return nil
		}
		text, err := os.ReadFile(path)
		switch {
		case strings.HasPrefix(string(text), "// Code generated "):
		case ext == ".go":
			found += checkGo(path, text)
		case ext == ".md":
			found += check(path, 1, code.ReplaceAllStringFunc(string(text), func(code string) string {
				return strings.Repeat("\n", strings.Count(code, "\n"))
			}))
		default:
			found += check(path, 1, string(text))
		}
		return err
	})
	fmt.Printf("prose: %d words to avoid (see CONTRIBUTING.md), error %v\n", found, err)
	if err != nil || found > 0 {
		os.Exit(1)
	}
}
