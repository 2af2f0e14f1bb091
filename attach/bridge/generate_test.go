// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"encoding/xml"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// A maker writes random domains that a user or libvirt could have written, odd ones included.
type maker struct{ r *rand.Rand }

func (m maker) pick(choices ...string) string { return choices[m.r.IntN(len(choices))] }
func (m maker) maybe(s string) string         { return m.pick(s, "") }
func (m maker) space() string                 { return m.pick("", "", " ", "\n", "\n      ", "\r\n\t", "\t", "  \n\n") }
func (m maker) must() string                  { return m.pick(" ", " ", "\n", "\n        ", "\r\n\t", "\t ") }

// junk is what may stand between elements.
func (m maker) junk() string {
	return m.space() + m.pick("", "", "", "<!-- <disk type='network'><source protocol='rbd'/></disk> -->", "<!--\u0085\u2028 \ufeff-->",
		"<?pi <disk> ?>", "<x:y xmlns:x='urn:x' z='&#10;'><disk/></x:y>", "<unknown>\n : - # {[ \t</unknown>", "<!--\n\n   trailing \n-->") + m.space()
}

func (m maker) attr(name, value string) string {
	var text strings.Builder
	if err := xml.EscapeText(&text, []byte(value)); err != nil {
		panic(err)
	}
	quote := m.pick("'", "'", `"`)
	return m.must() + name + m.maybe(" ") + "=" + m.maybe(" ") + quote + text.String() + quote
}

// tag writes an element with its attributes (name, value, ...) in random order.
func (m maker) tag(name string, attrs []string, children ...string) string {
	var written []string
	for i := 0; i < len(attrs); i += 2 {
		if attrs[i+1] != "-" {
			written = append(written, m.attr(attrs[i], attrs[i+1]))
		}
	}
	m.r.Shuffle(len(written), func(i, j int) { written[i], written[j] = written[j], written[i] })
	start := "<" + name + strings.Join(written, "") + m.maybe(m.space())
	inside := strings.Join(children, "")
	if inside == "" && m.r.IntN(2) == 0 {
		return start + "/>"
	}
	return start + ">" + inside + "</" + name + m.maybe(m.space()) + ">"
}

func (m maker) uuid() string {
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", m.r.Uint32(), m.r.IntN(1<<16), m.r.IntN(1<<12), m.r.IntN(1<<12), m.r.Int64N(1<<48))
}

// word is a name as found in the wild.
func (m maker) word() string {
	return m.pick("vms", "volume-"+m.uuid(), "a b", "ä", "x:y", "a&b", "<>", `"'`, "{{", "- ", "#", "tab\tx", "é\u0301", "null", "0x1F", "~", "a\nb",
		" lead", "trail ", "yes", "\u0085", "%41", "*a", "!t", "?", "|", ">", "z")
}

func (m maker) secret(kind string) string {
	if m.r.IntN(2) == 0 {
		return m.tag("secret", []string{"type", kind, "uuid", m.uuid()})
	}
	return m.tag("secret", []string{"type", kind, "usage", m.word()})
}

func (m maker) children(list ...string) string {
	var kept []string
	for _, c := range list {
		if c != "" {
			kept = append(kept, c)
		}
	}
	m.r.Shuffle(len(kept), func(i, j int) { kept[i], kept[j] = kept[j], kept[i] })
	out := m.maybe(m.space())
	for _, c := range kept {
		out += c + m.space()
	}
	return out
}

func (m maker) disk(target string) string {
	if m.r.IntN(4) == 0 { // one to be left alone
		return m.tag("disk", []string{"type", m.pick("file", "network", "block"), "device", "disk"},
			m.tag("source", []string{"protocol", m.pick("rbd", "nbd", "iscsi", "-"), "name", m.word() + "/" + m.word()}),
			m.tag("target", []string{"dev", target, "bus", "virtio"}))
	}
	auth := m.maybe(m.tag("auth", []string{"username", m.word()}, m.space()+m.secret("ceph")+m.space()))
	engine, format, secrets := "librbd", m.pick("luks", "luks2", "luks-any"), m.secret("passphrase")
	switch m.r.IntN(3) {
	case 0:
		engine, format = m.pick("qemu", "-"), "luks"
	case 1:
		for range m.r.IntN(4) {
			secrets += m.space() + m.secret("passphrase")
		}
	}
	encryption := m.tag("encryption", []string{"format", format, "engine", engine}, m.space()+secrets+m.space())
	var hosts string
	for range m.r.IntN(4) {
		hosts += m.tag("host", []string{"name", m.pick("mon1", "10.0.0.1", "2001:db8::1", "a.b"), "port", m.pick("6789", "3300", "-")}) + m.space()
	}
	inside := []string{hosts, m.maybe(m.tag("snapshot", []string{"name", m.pick("s", "a b", "ä")})),
		m.maybe(m.tag("config", []string{"file", "/" + m.word()})), m.maybe("<!-- inside -->")}
	beside := []string{m.maybe(m.tag("driver", []string{"name", "qemu", "type", "raw", "cache", m.pick("none", "-"), "io", m.pick("native", "-"),
		"iothread", m.pick("1", "-"), "error_policy", m.pick("stop", "report", "-")})), m.maybe("<backingStore/>"), m.maybe("<shareable/>"),
		m.tag("target", []string{"dev", target, "bus", "virtio"}), m.maybe("<readonly/>"), m.junk(), m.junk()}
	for _, e := range []string{auth, encryption} {
		if m.r.IntN(2) == 0 {
			inside = append(inside, e)
		} else {
			beside = append(beside, e)
		}
	}
	name := m.word() + "/" + m.maybe(m.word()+"/") + "image " + target
	beside = append(beside, m.tag("source", []string{"protocol", "rbd", "name", name, "index", m.pick("3", "-")}, m.children(inside...)))
	return m.tag("disk", []string{"type", "network", "device", m.pick("disk", "-"), "snapshot", m.pick("no", "-")}, m.children(beside...))
}

func (m maker) domain() []byte {
	var devices string
	for i := range m.r.IntN(5) {
		devices += m.junk() + m.disk(fmt.Sprintf("vd%c", 'a'+i))
	}
	name := "<name>" + m.pick("web1", " n ", "a&amp;b", "<![CDATA[x<y]]>", "ä", "a<!-- c -->b") + "</name>"
	return []byte(m.maybe("<?xml version='1.0' encoding='UTF-8'?>") + m.maybe("<!-- first -->\n") +
		m.tag("domain", []string{"type", "kvm", "id", m.pick("4", "-")},
			m.space()+name+m.junk()+m.maybe("<uuid>"+m.uuid()+"</uuid>")+m.junk()+m.tag("devices", nil, devices+m.junk())+m.junk()) +
		m.maybe("\n<!-- last -->\n"))
}

// A domain by seed: the round trip is the identity.
func FuzzRoundTripMade(f *testing.F) {
	for seed := range uint64(3) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { roundTrip(t, maker{rand.New(rand.NewPCG(seed, 1))}.domain()) })
}

func TestRoundTripMade(t *testing.T) {
	n := uint64(800)
	if testing.Short() {
		n = 300
	}
	moved := 0
	for seed := range n {
		doc := maker{rand.New(rand.NewPCG(seed, 1))}.domain()
		if roundTrip(t, doc) {
			moved++
		} else if _, err := ToGateway(doc, GatewayOptions{}); !strings.Contains(err.Error(), "no disk to move") {
			t.Errorf("seed %d: %v\n%s", seed, err, doc)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if moved < int(n/2) {
		t.Errorf("only %d of %d domains had a disk to move", moved, n)
	}
}
