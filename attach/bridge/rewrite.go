// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"encoding/xml"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/attach/xmlspan"
)

// A style is how a document is written where an element is replaced.
type style struct {
	quote   string // around attribute values
	newline string // before an element that is a sibling of the replaced one: line end and indentation, or ""
	step    string // one more level of indentation
}

// styleOf looks at how e, in text, is written.
func styleOf(text string, e *xmlspan.Element) style {
	s := style{quote: "'"}
	if tag := text[e.Start:e.Open]; strings.Contains(tag, `"`) && !strings.Contains(tag, "'") {
		s.quote = `"`
	}
	before := text[:e.Start]
	indent := before[len(strings.TrimRight(before, " \t")):]
	before = before[:len(before)-len(indent)]
	switch {
	case strings.HasSuffix(before, "\r\n"):
		s.newline, s.step = "\r\n"+indent, "  "
	case strings.HasSuffix(before, "\n"):
		s.newline, s.step = "\n"+indent, "  "
	}
	if strings.HasSuffix(indent, "\t") && s.newline != "" {
		s.step = "\t"
	}
	return s
}

// A node is an element to be written.
type node struct {
	name     string
	attrs    []string // name, value, name, value
	children []node
}

func (s style) write(out *strings.Builder, n node) {
	out.WriteString("<" + n.name)
	for i := 0; i < len(n.attrs); i += 2 {
		out.WriteString(" " + n.attrs[i] + "=" + s.quote)
		if err := xml.EscapeText(out, []byte(n.attrs[i+1])); err != nil {
			panic("bridge: internal error: " + err.Error()) // a strings.Builder takes everything
		}
		out.WriteString(s.quote)
	}
	if len(n.children) == 0 {
		out.WriteString("/>")
		return
	}
	out.WriteString(">")
	inner := s
	if s.newline != "" {
		inner.newline += s.step
	}
	for _, c := range n.children {
		out.WriteString(inner.newline)
		inner.write(out, c)
	}
	out.WriteString(s.newline + "</" + n.name + ">")
}

func (s style) text(n node) string {
	var out strings.Builder
	s.write(&out, n)
	return out.String()
}

// replaceSource returns text, a <disk>, with another <source> and without <auth> and <encryption> beside it.
func replaceSource(text string, source node, more ...xmlspan.Edit) (string, error) {
	root, err := xmlspan.Parse([]byte(text))
	if err != nil {
		return "", fmt.Errorf("bridge: disk: %w", err)
	}
	old := root.First("source")
	// What is inserted before the source comes first.
	edits := append(more, xmlspan.Edit{Start: old.Start, End: old.End, Text: styleOf(text, old).text(source)})
	for _, e := range root.Children {
		if e.Space == "" && (e.Name == "auth" || e.Name == "encryption") {
			start := len(strings.TrimRight(text[:e.Start], " \t\r\n")) // with the white space before it
			edits = append(edits, xmlspan.Edit{Start: start, End: e.End})
		}
	}
	return string(xmlspan.Apply([]byte(text), edits)), nil
}

// rewriteForGateway returns the <disk> of text with the export as its source, its driver made fit for old versions.
func rewriteForGateway(entry *disk, text string, uri attach.URI, opts GatewayOptions) (string, []Note, error) {
	source := node{name: "source", attrs: []string{"protocol", "nbd", "name", uri.Export},
		children: []node{{name: "host", attrs: []string{"transport", "unix", "socket", uri.Socket}}}}
	root, err := xmlspan.Parse([]byte(text))
	if err != nil {
		return "", nil, fmt.Errorf("bridge: disk: %w", err)
	}
	edits, notes := fitDriver(entry, text, root, opts)
	if entry.element.First("shareable") != nil {
		notes = append(notes, Note{entry.element.Line, entry.target, "is shareable: the export must allow several writers (lock: none)"})
	}
	out, err := replaceSource(text, source, edits...)
	return out, notes, err
}

// driverAttributes that an NBD disk may not have on old versions, and from which libvirt and qemu it may.
var driverAttributes = []struct {
	name          string
	libvirt, qemu attach.Version
	why           string
}{
	{"iothread", attach.Version{}, attach.Version{Major: 6}, "an older qemu aborts when the disk is reset while the gateway is away"},
	{"io", attach.Version{Major: 6, Minor: 3}, attach.Version{Major: 5}, "it has no effect on NBD and some values are refused"},
	{"queue_size", attach.Version{Major: 7, Minor: 8}, attach.Version{}, "an older libvirt does not know it"},
	{"discard_no_unref", attach.Version{Major: 9, Minor: 5}, attach.Version{Major: 8, Minor: 1}, "it is for qcow2 and newer versions"},
}

// fitDriver removes what the versions cannot take and adds error_policy='stop' where no policy is given.
func fitDriver(entry *disk, text string, root *xmlspan.Element, opts GatewayOptions) ([]xmlspan.Edit, []Note) {
	libvirt, qemu := opts.Libvirt, opts.Qemu
	if libvirt == (attach.Version{}) {
		libvirt = attach.OldestLibvirt
	}
	if qemu == (attach.Version{}) {
		qemu = attach.OldestQemu
	}
	const why = "error_policy='stop' added: the guest pauses while the gateway is away, instead of seeing I/O errors"
	driver := root.First("driver")
	if driver == nil {
		source := root.First("source")
		s := styleOf(text, source)
		added := s.text(node{name: "driver", attrs: []string{"name", "qemu", "type", "raw", "error_policy", "stop"}}) + s.newline
		return []xmlspan.Edit{{Start: source.Start, End: source.Start, Text: added}},
			[]Note{{entry.element.Line, entry.target, why}}
	}
	original := entry.element.First("driver")
	var edits []xmlspan.Edit
	var notes []Note
	spans := xmlspan.AttrSpans([]byte(text), driver)
	for _, a := range driverAttributes {
		i := slices.IndexFunc(spans, func(s xmlspan.AttrSpan) bool { return s.Name == a.name })
		if i >= 0 && (!libvirt.AtLeast(a.libvirt) || !qemu.AtLeast(a.qemu)) {
			edits = append(edits, xmlspan.Edit{Start: spans[i].Start, End: spans[i].End})
			notes = append(notes, Note{original.Line, entry.target, a.name + " removed: " + a.why})
		}
	}
	if _, ok := driver.Attr("error_policy"); !ok {
		at := driver.Start + len("<driver")
		if len(spans) > 0 {
			at = spans[len(spans)-1].End
		}
		quote := styleOf(text, driver).quote
		edits = append(edits, xmlspan.Edit{Start: at, End: at, Text: " error_policy=" + quote + "stop" + quote})
		notes = append(notes, Note{original.Line, entry.target, why})
	}
	return edits, notes
}

// librbdSource is the <source> that readLibrbdDisk reads e from.
func librbdSource(e Export) (node, error) {
	name, snapshot, _ := strings.Cut(strings.TrimPrefix(e.Image, "rbd:"), "@")
	source := node{name: "source", attrs: []string{"protocol", "rbd", "name", name}}
	for _, mon := range e.Ceph.MonHosts {
		attrs := []string{"name", strings.Trim(mon, "[]")}
		if host, port, err := net.SplitHostPort(mon); err == nil {
			attrs = []string{"name", host, "port", port}
		}
		source.children = append(source.children, node{name: "host", attrs: attrs})
	}
	if snapshot != "" {
		source.children = append(source.children, node{name: "snapshot", attrs: []string{"name", snapshot}})
	}
	if e.Ceph.Conf != "" {
		source.children = append(source.children, node{name: "config", attrs: []string{"file", e.Ceph.Conf}})
	}
	if e.Ceph.User != "" {
		secret, err := secretNode(e.Ceph.Key, "ceph")
		if err != nil {
			return node{}, fmt.Errorf("ceph user %s: %w", e.Ceph.User, err)
		}
		source.children = append(source.children,
			node{name: "auth", attrs: []string{"username", e.Ceph.User}, children: []node{secret}})
	}
	encryption := node{name: "encryption", attrs: []string{"format", e.Libvirt.Format, "engine", e.Libvirt.Engine}}
	for i := range e.Keys {
		secret, err := secretNode(&e.Keys[i], "passphrase")
		if err != nil {
			return node{}, fmt.Errorf("key %d: %w", i+1, err)
		}
		encryption.children = append(encryption.children, secret)
	}
	if len(e.Keys) == 0 {
		return node{}, fmt.Errorf("no keys")
	}
	source.children = append(source.children, encryption)
	return source, nil
}

func secretNode(key *Key, kind string) (node, error) {
	if key == nil || key.LibvirtSecret == nil {
		return node{}, fmt.Errorf("libvirt needs a secret of its own: define one with `luksgate xml secret` and name it in the " +
			"configuration as libvirt_secret")
	}
	attr, value := "uuid", key.LibvirtSecret.UUID
	if value == "" {
		attr, value = "usage", key.LibvirtSecret.Usage
	}
	if value == "" {
		return node{}, fmt.Errorf("libvirt_secret without uuid and usage")
	}
	return node{name: "secret", attrs: []string{"type", kind, attr, value}}, nil
}
