// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Load reads a configuration file. What is wrong with its content is an *Errors.
func Load(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, text)
}

// Parse reads a configuration; name is for messages. What is wrong is an *Errors.
func Parse(name string, text []byte) (*File, error) {
	c := &File{}
	lines, errs := decode(text, c)
	c.lines = lines
	if len(errs) == 0 {
		c.fillDefaults()
		errs = c.check()
	}
	if len(errs) > 0 {
		slices.SortStableFunc(errs, func(a, b *Error) int { return a.Line - b.Line })
		return nil, &Errors{Name: name, All: errs}
	}
	return c, nil
}

// ParseExport reads one export, as the admin API takes it, with the defaults and key stores of c. It is checked against
// c's other exports too.
func (c *File) ParseExport(text []byte) (Export, error) {
	var e Export
	lines, errs := decode(text, &e)
	if len(errs) == 0 {
		with := *c
		with.Exports = append(slices.Clone(c.Exports), e)
		with.lines = nil
		with.fillDefaults()
		errs = with.check()
		e = with.Exports[len(with.Exports)-1]
		for _, one := range errs {
			one.Key = strings.TrimPrefix(one.Key, fmt.Sprintf("exports[%d].", len(c.Exports)))
			one.Line = lines[one.Key]
		}
	}
	if len(errs) > 0 {
		return Export{}, &Errors{Name: "export", All: errs}
	}
	return e, nil
}

func decode(text []byte, into any) (map[string]int, []*Error) {
	if len(text) > MaxBytes {
		return nil, []*Error{{Text: fmt.Sprintf("more than %d bytes", MaxBytes)}}
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil // an empty file is a configuration: all defaults
	} else if err != nil {
		return nil, []*Error{syntaxError(err)}
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, []*Error{{Line: second.Line, Text: "a second document begins", Hint: "a configuration is one YAML document"}}
	}
	w := walker{lines: map[string]int{}}
	w.walk(doc.Content[0], reflect.TypeOf(into).Elem(), "")
	if len(w.errs) > 0 {
		return nil, w.errs
	}
	if err := doc.Decode(into); err != nil {
		return nil, []*Error{syntaxError(err)}
	}
	return w.lines, nil
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntaxError takes the line out of what the YAML parser says.
func syntaxError(err error) *Error {
	e := &Error{Text: err.Error()}
	if m := yamlLine.FindStringSubmatch(e.Text); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Text = "not YAML: " + e.Text[len(m[0]):]
	}
	return e
}

// NameOf is the name of the export that text describes, which may be wrong otherwise.
func NameOf(text []byte) (string, error) {
	var e struct {
		Name string `yaml:"name"`
	}
	if err := yaml.Unmarshal(text, &e); err != nil {
		return "", &Errors{Name: "export", All: []*Error{syntaxError(err)}}
	}
	return e.Name, nil
}
