// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxErrors is how many mistakes of a file are told at once.
const maxErrors = 20

// An Error is one mistake in a configuration file.
type Error struct {
	Line int    // from 1; 0 if it is about the whole file
	Key  string // such as exports[2].key.file
	Text string
	Hint string // what may help, or ""
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Text)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Errors are all mistakes of a file, in the order of its lines.
type Errors struct {
	Name string // of the file
	All  []*Error
}

func (e *Errors) Error() string {
	lines := make([]string, 0, len(e.All))
	for _, one := range e.All {
		lines = append(lines, fmt.Sprintf("%s: %v", e.Name, one))
	}
	return strings.Join(lines, "\n")
}

// A walker holds a document against the types that it is for, before anything is decoded.
type walker struct {
	errs  []*Error
	lines map[string]int // of every key
}

func (w *walker) fail(n *yaml.Node, key, hint, format string, args ...any) {
	if len(w.errs) < maxErrors {
		w.errs = append(w.errs, &Error{Line: n.Line, Key: key, Text: fmt.Sprintf(format, args...), Hint: hint})
	}
}

var unmarshaler = reflect.TypeFor[yaml.Unmarshaler]()

// walk holds n against t. key is where n is.
func (w *walker) walk(n *yaml.Node, t reflect.Type, key string) {
	w.lines[key] = n.Line
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		w.fail(n, key, "use the section defaults", "anchors and aliases are not read")
		return
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // a key without a value is a key that is not there
	}
	if reflect.PointerTo(t).Implements(unmarshaler) {
		w.decode(n, t, key)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		w.mapping(n, t, key)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			w.fail(n, key, "write each entry on a line of its own that starts with a dash", "expected a list")
			return
		}
		for i, entry := range n.Content {
			w.walk(entry, t.Elem(), fmt.Sprintf("%s[%d]", key, i))
		}
	case reflect.Map:
		if n.Kind != yaml.MappingNode {
			w.fail(n, key, "", "expected keys and values")
		}
	default:
		w.decode(n, t, key)
	}
}

// decode tries a scalar alone, so that its line is known.
func (w *walker) decode(n *yaml.Node, t reflect.Type, key string) {
	v := reflect.New(t)
	err := n.Decode(v.Interface())
	if n.Kind != yaml.ScalarNode {
		err = errors.New("expected a single value")
	} else if t.Kind() == reflect.String && n.Tag != "!!str" && !reflect.PointerTo(t).Implements(unmarshaler) {
		w.fail(n, key, "put it in quotes", "expected a text, found %s", n.Value)
		return
	}
	if err == nil {
		return
	}
	var wrong *yaml.TypeError
	if errors.As(err, &wrong) {
		err = fmt.Errorf("expected %s, found %q", kindName(t), n.Value)
	}
	w.fail(n, key, "", "%v", err)
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a number"
	default:
		return "a text"
	}
}

func (w *walker) mapping(n *yaml.Node, t reflect.Type, key string) {
	if n.Kind != yaml.MappingNode {
		w.fail(n, key, "", "expected keys and values")
		return
	}
	fields := fieldsOf(t)
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if line, twice := seen[name.Value]; twice {
			w.fail(name, key, fmt.Sprintf("the first is on line %d", line), "key %q for the second time", name.Value)
			continue
		}
		seen[name.Value] = name.Line
		field, known := fields[name.Value]
		if !known {
			w.fail(name, key, hint(name.Value, fields), "unknown key %q", name.Value)
			continue
		}
		w.walk(value, field, strings.TrimPrefix(key+"."+name.Value, "."))
	}
}

// fieldsOf are the keys of a struct and their types.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, rest, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case rest == "inline":
			for inner, it := range fieldsOf(f.Type) {
				out[inner] = it
			}
		case name != "":
			out[name] = f.Type
		}
	}
	return out
}

// hint says what may have been meant by an unknown key.
func hint(name string, fields map[string]reflect.Type) string {
	names := make([]string, 0, len(fields))
	for f := range fields {
		names = append(names, f)
	}
	slices.Sort(names)
	if len(name) > 64 {
		name = name[:64] // nobody mistypes more
	}
	best, bestDistance := "", 1+len(name)/3
	plain := strings.ReplaceAll(strings.ToLower(name), "-", "_")
	for _, f := range names {
		if d := distance(plain, f); d <= bestDistance && (best == "" || d < bestDistance) {
			best, bestDistance = f, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "expected one of: " + strings.Join(names, ", ")
}

// distance is the number of letters to add, drop, change or swap with the next between two short words.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				cost++
			}
			rows[i][j] = min(cost, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
