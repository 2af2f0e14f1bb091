// SPDX-License-Identifier: Apache-2.0

// Package xmlspan finds out where the elements of an XML document are, so that some can be replaced while every other
// byte stays as it is: order, comments, white space and elements that nobody here has heard of.
//
// A tree is read-only once parsed and may be used by any number of goroutines.
package xmlspan

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of a document. libvirt's own limit for a domain is 10 MiB (its RPC strings are shorter still).
const (
	MaxBytes = 16 << 20
	MaxDepth = 128
)

// An Element is a node of the document. Offsets are in bytes from the start of the document.
type Element struct {
	// Space is the namespace URL, "" for none; Name is the name without prefix.
	Space, Name string
	// Attrs are the attributes that have no prefix, in order.
	Attrs []Attr
	// Text is the character data directly inside, concatenated.
	Text string
	// Start is where "<" is, Open the byte after the start tag, Close where the end tag begins, End the byte after
	// the element. A self-closing element has Open == Close == End.
	Start, Open, Close, End int
	// Line of Start, from 1.
	Line     int
	Children []*Element

	text []byte // Text while the element is open
}

// An Attr is an attribute with its decoded value.
type Attr struct{ Name, Value string }

// Attr returns the value of an attribute, and whether there is one.
func (e *Element) Attr(name string) (string, bool) {
	for _, a := range e.Attrs {
		if a.Name == name {
			return a.Value, true
		}
	}
	return "", false
}

// Get returns the value of an attribute, "" if there is none.
func (e *Element) Get(name string) string {
	value, _ := e.Attr(name)
	return value
}

// All returns the children of a name that are in no namespace.
func (e *Element) All(name string) []*Element {
	var found []*Element
	for _, c := range e.Children {
		if c.Name == name && c.Space == "" {
			found = append(found, c)
		}
	}
	return found
}

// First returns the first child of a name that is in no namespace, nil if there is none.
func (e *Element) First(name string) *Element {
	for _, c := range e.Children {
		if c.Name == name && c.Space == "" {
			return c
		}
	}
	return nil
}

// SelfClosing says whether the element is written <a/>.
func (e *Element) SelfClosing() bool { return e.Open == e.End }

// An Error says what is wrong with a document, and where.
type Error struct {
	Line int // from 1
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns what is wrong without the line.
func (e *Error) Unwrap() error { return e.Err }

// Parse reads a document in UTF-8 and returns its root element. Entities other than the five of XML, DTDs and repeated
// attributes are refused. Every error is an *Error.
func Parse(doc []byte) (*Element, error) {
	if len(doc) > MaxBytes {
		return nil, &Error{1, fmt.Errorf("document of %d bytes, at most %d are read", len(doc), MaxBytes)}
	}
	if !utf8.Valid(doc) {
		return nil, &Error{1, errors.New("document is not in UTF-8")}
	}
	p := parser{doc: doc, decoder: xml.NewDecoder(bytes.NewReader(doc)), line: 1}
	for {
		start := p.decoder.InputOffset()
		token, err := p.decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = p.take(token, int(start))
		}
		if err != nil {
			return nil, p.located(err, int(start))
		}
	}
	if p.root == nil {
		return nil, &Error{1, errors.New("no XML element")}
	}
	return p.root, nil
}

type parser struct {
	doc     []byte
	decoder *xml.Decoder
	root    *Element
	open    []*Element
	// line is the line of the byte at counted.
	line, counted int
}

func (p *parser) located(err error, offset int) error {
	var syntax *xml.SyntaxError
	if errors.As(err, &syntax) {
		return &Error{syntax.Line, errors.New(syntax.Msg)}
	}
	return &Error{p.lineAt(offset), err}
}

// lineAt must be asked for growing offsets.
func (p *parser) lineAt(offset int) int {
	if offset > p.counted {
		p.line += bytes.Count(p.doc[p.counted:offset], []byte{'\n'})
		p.counted = offset
	}
	return p.line
}

func (p *parser) take(token xml.Token, start int) error {
	switch t := token.(type) {
	case xml.StartElement:
		return p.startElement(t, start)
	case xml.EndElement:
		e := p.open[len(p.open)-1]
		p.open = p.open[:len(p.open)-1]
		e.Close, e.End = start, int(p.decoder.InputOffset())
		e.Text, e.text = string(e.text), nil
	case xml.CharData:
		if len(p.open) > 0 {
			e := p.open[len(p.open)-1]
			e.text = append(e.text, t...)
		} else if len(bytes.TrimLeft(t, " \t\r\n\ufeff")) > 0 {
			return errors.New("text outside the root element")
		}
	case xml.Directive:
		return errors.New("document types are not supported")
	}
	return nil
}

func (p *parser) startElement(t xml.StartElement, start int) error {
	e := &Element{Space: t.Name.Space, Name: t.Name.Local, Start: start, Open: int(p.decoder.InputOffset()),
		Line: p.lineAt(start)}
	for i, a := range t.Attr {
		if slices.ContainsFunc(t.Attr[:i], func(b xml.Attr) bool { return b.Name == a.Name }) {
			return fmt.Errorf("attribute %s of <%s> is given twice", a.Name.Local, e.Name)
		}
		if a.Name.Space == "" {
			e.Attrs = append(e.Attrs, Attr{a.Name.Local, a.Value})
		}
	}
	if len(p.open) == 0 {
		if p.root != nil {
			return fmt.Errorf("second root element <%s>", e.Name)
		}
		p.root = e
	} else {
		parent := p.open[len(p.open)-1]
		parent.Children = append(parent.Children, e)
	}
	if p.open = append(p.open, e); len(p.open) > MaxDepth {
		return fmt.Errorf("elements nested deeper than %d", MaxDepth)
	}
	return nil
}

// An Edit replaces the bytes from Start to End by Text.
type Edit struct {
	Start, End int
	Text       string
}

// Apply returns doc with edits made, which may come in any order but must not overlap. Insertions at one place are made
// in the order given.
func Apply(doc []byte, edits []Edit) []byte {
	sorted := slices.Clone(edits)
	slices.SortStableFunc(sorted, func(a, b Edit) int { return a.Start - b.Start })
	var out bytes.Buffer
	at := 0
	for _, e := range sorted {
		if e.Start < at || e.End < e.Start {
			panic(fmt.Sprintf("xmlspan: internal error: edits overlap at byte %d", e.Start))
		}
		out.Write(doc[at:e.Start])
		out.WriteString(e.Text)
		at = e.End
	}
	out.Write(doc[at:])
	return out.Bytes()
}

// An AttrSpan is where an attribute is inside a document: from the white space before its name to the byte after its
// closing quote.
type AttrSpan struct {
	Name       string // with its prefix, if it has one
	Start, End int
}

// AttrSpans returns the attributes of e as they are written in doc, the document that e was parsed from.
func AttrSpans(doc []byte, e *Element) []AttrSpan {
	const space = " \t\r\n"
	var spans []AttrSpan
	tag := string(doc[:e.Open])
	at := e.Start + strings.IndexAny(tag[e.Start:], space+"/>") // the parser has seen a whole tag
	for {
		start := at
		at += len(tag[at:]) - len(strings.TrimLeft(tag[at:], space))
		nameEnd := strings.IndexAny(tag[at:], space+"=/>")
		if nameEnd <= 0 {
			return spans
		}
		name := tag[at : at+nameEnd]
		quoteAt := strings.IndexAny(tag[at:], `'"`)
		if quoteAt < 0 {
			return spans
		}
		at += quoteAt
		end := strings.IndexByte(tag[at+1:], tag[at])
		if end < 0 {
			return spans
		}
		at += end + 2
		spans = append(spans, AttrSpan{name, start, at})
	}
}
