// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	messageRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")
	formatVerb = regexp.MustCompile(`%[-+# 0]*[0-9]*(?:\.[0-9]+)?[a-zA-Z]`)
)

// TestMessagesExist has every message in the table of troubleshooting.md be one that the program can say: a text in its
// source, with … where that has a verb of fmt.
func TestMessagesExist(t *testing.T) {
	text, err := os.ReadFile("troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := messageRow.FindAllStringSubmatch(string(text), -1)
	if len(rows) < 20 {
		t.Fatalf("only %d messages", len(rows))
	}
	source := strings.Join(literals(t, "../gateway", "../crypt", "../nbdserver", "../attach"), "\n")
	for _, m := range rows {
		if !strings.Contains(source, m[1]) && !strings.Contains(source, strings.TrimSpace(strings.Trim(m[1], "…"))) {
			t.Errorf("the program never says %q", m[1])
		}
	}
}

// literals are the texts in the source of packages, with … for verbs and for what is put together with +.
func literals(t *testing.T, dirs ...string) []string {
	t.Helper()
	var out []string
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if s, ok := constant(n); ok {
					out = append(out, formatVerb.ReplaceAllString(s, "…"))
					return false
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// constant is the value of a literal, or of several that are joined with +.
func constant(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.BasicLit:
		if n.Kind == token.STRING {
			s, err := strconv.Unquote(n.Value)
			return s, err == nil
		}
	case *ast.BinaryExpr:
		left, ok := constant(n.X)
		right, ok2 := constant(n.Y)
		return left + right, ok && ok2 && n.Op == token.ADD
	}
	return "", false
}
