// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/attach/attachtest"
	"github.com/luksgate/luksgate/attach/xmlspan"
	"github.com/luksgate/luksgate/deploy/testenv"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// corpus returns the domains under testdata.
func corpus(tb testing.TB) map[string][]byte {
	tb.Helper()
	paths, err := filepath.Glob("testdata/domains/*.xml")
	if err != nil || len(paths) < 7 {
		tb.Fatalf("%d domains, %v", len(paths), err)
	}
	all := map[string][]byte{}
	for _, path := range paths {
		doc, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(path), ".xml")] = doc
	}
	return all
}

func TestGolden(t *testing.T) {
	for name, doc := range corpus(t) {
		result, err := ToGateway(doc, GatewayOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		golden(t, name+".xml", result.Domain)
		text, err := result.Config.YAML()
		if err != nil {
			t.Fatal(err)
		}
		for _, note := range result.Notes {
			text = append(text, "# "+note.String()+"\n"...)
		}
		golden(t, name+".yaml", text)
	}
}

// Every domain that is written follows the installed schema, and its disks the rules of libvirt 6.0.
func TestFollowsSchema(t *testing.T) {
	xmllint := testenv.Tool(t, "xmllint")
	const rng = "/usr/share/libvirt/schemas/domain.rng"
	if _, err := os.Stat(rng); err != nil {
		testenv.Missing(t, "no libvirt schema: %v", err)
	}
	for name, doc := range corpus(t) {
		result, err := ToGateway(doc, GatewayOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range result.Config.Exports {
			if err := attachtest.CheckLibvirt60(e.Libvirt.GatewayDisk); err != nil {
				t.Errorf("%s: %v\n%s", name, err, e.Libvirt.GatewayDisk)
			}
			e.Libvirt.GatewayDisk, e.Libvirt.LibrbdDisk = "", ""
		}
		back, err := ToLibrbd(result.Domain, result.Config, LibrbdOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for side, text := range map[string][]byte{"gateway": result.Domain, "librbd": back.Domain} {
			// Newer than the installed schema: several secrets and luks-any (libvirt 9.3).
			if side == "librbd" && (bytes.Contains(text, []byte("luks-any")) || bytes.Count(text, []byte("22222222-2222"))+
				bytes.Count(text, []byte("33333333-3333")) > 0) {
				continue
			}
			path := filepath.Join(t.TempDir(), name+".xml")
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(xmllint, "--noout", "--relaxng", rng, path).CombinedOutput(); err != nil {
				t.Errorf("%s on %s: %v\n%s\n%s", name, side, err, out, text)
			}
		}
	}
}

// roundTrip checks every property of a move and the way back. It returns false if there was nothing to move.
func roundTrip(t *testing.T, doc []byte) bool {
	t.Helper()
	there, err := ToGateway(doc, GatewayOptions{})
	if err != nil {
		return false
	}
	checkOnlyDisksChanged(t, doc, there.Domain, there.Config, false)

	// Through the file that the user keeps in between.
	text, err := there.Config.YAML()
	if err != nil {
		t.Fatal(err)
	}
	config, err := ParseConfig(text)
	if err != nil || !reflect.DeepEqual(config, there.Config) {
		t.Fatalf("configuration changed on its way through YAML: %v\n%+v\n%+v\n%s", err, there.Config, config, text)
	}
	back, err := ToLibrbd(there.Domain, config, LibrbdOptions{})
	if err != nil {
		t.Fatalf("way back: %v\n%s", err, there.Domain)
	}
	if !bytes.Equal(back.Domain, doc) {
		t.Fatalf("way back: got\n%s\nwant\n%s", back.Domain, doc)
	}
	// And there again: the same as the first time.
	again, err := ToGateway(back.Domain, GatewayOptions{Existing: back.Config})
	if err != nil || !bytes.Equal(again.Domain, there.Domain) {
		t.Fatalf("there again: %v, got\n%s\nwant\n%s", err, again.Domain, there.Domain)
	}
	roundTripByMeaning(t, there)
	return true
}

// roundTripByMeaning goes back without the remembered text, as after libvirt has written the domain anew.
func roundTripByMeaning(t *testing.T, there Result) {
	t.Helper()
	var forgetful Config
	for _, e := range there.Config.Exports {
		e.Libvirt = &Origin{Format: e.Libvirt.Format, Engine: e.Libvirt.Engine}
		forgetful.Exports = append(forgetful.Exports, e)
	}
	back, err := ToLibrbd(there.Domain, forgetful, LibrbdOptions{})
	if err != nil {
		t.Fatalf("way back by meaning: %v\n%s", err, there.Domain)
	}
	checkOnlyDisksChanged(t, there.Domain, back.Domain, back.Config, true)
	again, err := ToGateway(back.Domain, GatewayOptions{Existing: back.Config})
	if err != nil || !bytes.Equal(again.Domain, there.Domain) {
		t.Fatalf("there again by meaning: %v, got\n%s\nwant\n%s", err, again.Domain, there.Domain)
	}
	if len(again.Config.Exports) != len(there.Config.Exports) {
		t.Fatalf("%d exports became %d", len(there.Config.Exports), len(again.Config.Exports))
	}
	for i, e := range again.Config.Exports {
		first := there.Config.Exports[i]
		if !sameExport(e, first) || e.Name != first.Name || e.Socket != first.Socket || e.ReadOnly != first.ReadOnly {
			t.Fatalf("export changed its meaning: %+v became %+v", first, e)
		}
	}
}

// checkOnlyDisksChanged cuts the moved disks out of both documents and compares the rest.
func checkOnlyDisksChanged(t *testing.T, from, to []byte, config Config, toLibrbd bool) {
	t.Helper()
	for _, e := range config.Exports {
		before, after := e.Libvirt.LibrbdDisk, e.Libvirt.GatewayDisk
		if toLibrbd {
			before, after = after, before
		}
		if bytes.Count(from, []byte(before)) < 1 || bytes.Count(to, []byte(after)) < 1 {
			t.Fatalf("disk of %s is not in its document", e.Name)
		}
		i, j := bytes.Index(from, []byte(before)), bytes.Index(to, []byte(after))
		if !bytes.Equal(from[:i], to[:j]) {
			t.Fatalf("changed before the disk of %s:\n%s\nto\n%s", e.Name, from[:i], to[:j])
		}
		from, to = from[i+len(before):], to[j+len(after):]
	}
	if !bytes.Equal(from, to) {
		t.Fatalf("changed after the last disk:\n%s\nto\n%s", from, to)
	}
}

func TestRoundTrip(t *testing.T) {
	for name, doc := range corpus(t) {
		if !roundTrip(t, doc) {
			t.Errorf("%s: nothing was moved", name)
		}
	}
}

// After libvirt gave the disk an address and other quotes, the way back keeps what it did and exchanges the source.
func TestWayBackAfterChange(t *testing.T) {
	doc := corpus(t)["luks2"]
	there, err := ToGateway(doc, GatewayOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const alias = "<alias name='virtio-disk0'/>\n      <boot order='1'/>"
	changed := bytes.Replace(there.Domain, []byte("<boot order='1'/>"), []byte(alias), 1)
	back, err := ToLibrbd(changed, there.Config, LibrbdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Replace(doc, []byte("<boot order='1'/>"), []byte(alias), 1)
	want = bytes.Replace(want, []byte("discard='unmap'/>"), []byte("discard='unmap' error_policy='stop'/>"), 1)
	if !bytes.Equal(back.Domain, want) {
		t.Errorf("got\n%s\nwant\n%s", back.Domain, want)
	}
}

// A gateway disk that never was a librbd disk gets one, and the same gateway disk afterwards.
func TestBornOnGateway(t *testing.T) {
	disk, err := attach.Disk(attach.DiskOptions{URI: attach.URI{Socket: "/run/luksgate/a.sock", Export: "a"}, Target: "vda"})
	if err != nil {
		t.Fatal(err)
	}
	doc := []byte("<domain><name>n</name><devices>\n" + disk + "</devices></domain>")
	config := Config{Exports: []Export{{Name: "a", Socket: "/run/luksgate/a.sock", Image: "rbd:p/ns/i",
		Keys: []Key{{LibvirtSecret: &SecretRef{Usage: "/k"}}}}}}
	if _, err := ToLibrbd(doc, config, LibrbdOptions{}); err == nil || !strings.Contains(err.Error(), "--format") {
		t.Errorf("got %v, want an error that names --format", err)
	}
	back, err := ToLibrbd(doc, config, LibrbdOptions{Format: "luks2"})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(back.Domain, []byte(`<source protocol="rbd" name="p/ns/i">`)) || bytes.Contains(back.Domain, []byte("nbd")) {
		t.Errorf("got\n%s", back.Domain)
	}
	again, err := ToGateway(back.Domain, GatewayOptions{Existing: back.Config})
	if err != nil || !bytes.Equal(again.Domain, doc) {
		t.Errorf("%v, got\n%s\nwant\n%s", err, again.Domain, doc)
	}
}

func TestTargets(t *testing.T) {
	doc := corpus(t)["mixed"]
	result, err := ToGateway(doc, GatewayOptions{Targets: []string{"sda"}, SocketDir: "/srv/s", Libvirt: attach.Version{Major: 9}})
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Config.Exports) != 1 {
		t.Fatalf("%d exports, want one", len(result.Config.Exports))
	}
	e := result.Config.Exports[0]
	if e.Name != "mixed-sda" || e.Socket != "/srv/s/mixed-sda.sock" || e.Image != "rbd:vms/data@monday" || !e.ReadOnly {
		t.Errorf("export is %+v", e)
	}
	if bytes.Count(result.Domain, []byte("'rbd'")) != bytes.Count(doc, []byte("'rbd'"))-1 {
		t.Errorf("not exactly one disk was moved:\n%s", result.Domain)
	}
}

// Names are plain, short and different for different disks.
func TestExportNames(t *testing.T) {
	seen := map[string]string{}
	for _, domain := range []string{"a", "a b", "a_b", "ä", "../../etc/passwd", ".", strings.Repeat("long", 40), strings.Repeat("long", 41)} {
		doc := strings.Replace(string(corpus(t)["one-line"]), "<name>one</name>", "<name>"+domain+"</name>", 1)
		result, err := ToGateway([]byte(doc), GatewayOptions{})
		if err != nil {
			t.Errorf("%q: %v", domain, err)
			continue
		}
		e := result.Config.Exports[0]
		if filepath.Dir(e.Socket) != DefaultSocketDir || len(e.Socket) > attach.MaxSocketPathBytes || strings.HasPrefix(e.Name, ".") {
			t.Errorf("%q: export %+v", domain, e)
		}
		if other, ok := seen[e.Name]; ok {
			t.Errorf("%q and %q have one name, %s", domain, other, e.Name)
		}
		seen[e.Name] = domain
	}
}

// wrapDisk puts a disk on line 4 of a domain.
func wrapDisk(disks string) []byte {
	return []byte("<domain>\n<name>n</name>\n<devices>\n" + disks + "</devices></domain>")
}

func TestToGatewayRefuses(t *testing.T) {
	const (
		enc    = "<encryption format='luks2' engine='librbd'>\n<secret type='passphrase' uuid='7d5b2c0e-31b4-4a5c-9d0b-6f7d0e1a2b3c'/></encryption>"
		target = "<target dev='vda'/>"
	)
	rbd := func(inside string) string {
		return "<disk type='network'>\n<source protocol='rbd' name='p/i'>\n" + inside + "</source>" + target + "</disk>"
	}
	named := GatewayOptions{Targets: []string{"vda"}}
	for _, test := range []struct {
		want string
		doc  []byte
		opts GatewayOptions
	}{
		{"line 1: root element is <network>", []byte("<network/>"), named},
		{"line 1: domain without <name>", []byte("<domain/>"), named},
		{"line 2: ", []byte("<domain>\n<name></domain>"), named},
		{`has no disk "vda", it has: none`, wrapDisk(""), named},
		{`has no disk "vdx", it has: vda`, wrapDisk(rbd(enc)), GatewayOptions{Targets: []string{"vdx"}}},
		{"line 7: disk vda: the disk on line 4 has the same target", wrapDisk(rbd("") + "\n" + rbd("")), named},
		{"line 8: disk vda: the disk on line 4 has the same image", wrapDisk(rbd(enc) + "\n" + rbd(enc)), GatewayOptions{}},
		{"line 5: disk vda: type \"network\" with protocol \"iscsi\"", wrapDisk("<disk type='network'>\n<source protocol='iscsi'/>" + target + "</disk>"), named},
		{"line 4: disk vda: no <source>", wrapDisk("<disk type='file'>" + target + "</disk>"), named},
		{"line 5: disk vda: is an NBD disk already", wrapDisk("<disk type='network'>\n<source protocol='nbd'/>" + target + "</disk>"), named},
		{"line 5: disk vda: no <encryption>", wrapDisk(rbd("")), named},
		{"no disk to move", wrapDisk(rbd("")), GatewayOptions{}},
		{"line 4: no <target", wrapDisk(strings.Replace(rbd(enc), target, "", 1)), GatewayOptions{}},
		{"line 6: disk vda: no <secret>", wrapDisk(rbd("<encryption format='luks'/>")), named},
		{"line 6: disk vda: format \"qcow\"", wrapDisk(rbd("<encryption format='qcow'/>")), named},
		{"line 6: disk vda: format \"luks2\" of engine qemu", wrapDisk(rbd("<encryption format='luks2'/>")), named},
		{"line 6: disk vda: engine \"x\"", wrapDisk(rbd("<encryption format='luks2' engine='x'/>")), named},
		{"line 7: disk vda: engine qemu knows no layers", wrapDisk(rbd("<encryption format='luks'><secret/>\n<secret/></encryption>")), named},
		{"line 22: disk vda: more than 16 layers", wrapDisk(rbd("<encryption format='luks' engine='librbd'>" + strings.Repeat("<secret/>\n", 17) + "</encryption>")), named},
		{"line 6: disk vda: secret of type \"ceph\"", wrapDisk(rbd("<encryption format='luks'><secret type='ceph'/></encryption>")), named},
		{"line 6: disk vda: secret: expected either", wrapDisk(rbd("<encryption format='luks'><secret type='passphrase'/></encryption>")), named},
		{"line 6: disk vda: secret: \"x\" is not a UUID", wrapDisk(rbd("<encryption format='luks'><secret type='passphrase' uuid='x'/></encryption>")), named},
		{"line 8: disk vda: <encryption> is inside <source> (line 6)", wrapDisk(strings.Replace(rbd(enc), target, "\n"+enc+target, 1)), named},
		{"line 6: disk vda: <slices> in <source>", wrapDisk(rbd("<slices/>" + enc)), named},
		{"line 6: disk vda: second <config>", wrapDisk(rbd("<config file='/a'/><config file='/b'/>" + enc)), named},
		{"line 6: disk vda: snapshot name", wrapDisk(rbd("<snapshot name='a@b'/>" + enc)), named},
		{"line 6: disk vda: file \"x\"", wrapDisk(rbd("<config file='x'/>" + enc)), named},
		{"line 6: disk vda: port \"0\"", wrapDisk(rbd("<host name='h' port='0'/>" + enc)), named},
		{"line 6: disk vda: expected a monitor", wrapDisk(rbd("<host transport='unix' socket='/s'/>" + enc)), named},
		{"line 6: disk vda: no username", wrapDisk(rbd("<auth/>" + enc)), named},
		{"line 6: disk vda: expected one <secret>", wrapDisk(rbd("<auth username='u'/>" + enc)), named},
		{"line 5: disk vda: name \"p\"", wrapDisk(strings.Replace(rbd(enc), "p/i", "p", 1)), named},
		{"line 5: disk vda: name \"p/i@s\"", wrapDisk(strings.Replace(rbd(enc), "p/i", "p/i@s", 1)), named},
		{"line 4: disk vda: device \"lun\"", wrapDisk(strings.Replace(rbd(enc), "<disk", "<disk device='lun'", 1)), named},
		{"line 7: disk vda: a block job", wrapDisk(strings.Replace(rbd(enc), target, target+"<mirror/>", 1)), named},
		{"line 7: disk vda: a chain of files", wrapDisk(strings.Replace(rbd(enc), target, target+"<backingStore><format/></backingStore>", 1)), named},
		{"line 7: disk vda: format \"qcow2\"", wrapDisk(strings.Replace(rbd(enc), target, target+"<driver type='qcow2'/>", 1)), named},
		{"line 7: disk vda: second <source>", wrapDisk(strings.Replace(rbd(enc), target, target+"<source/>", 1)), named},
		{"line 4: disk vda: there is an export n-vda already, of rbd:p/other", wrapDisk(rbd(enc)),
			GatewayOptions{Existing: Config{Exports: []Export{{Name: "n-vda", Image: "rbd:p/other"}}}}},
		{"line 4: disk vda: export: socket", wrapDisk(rbd(enc)), GatewayOptions{SocketDir: "/" + strings.Repeat("x", 100)}},
		{"line 4: disk vda: export: socket", wrapDisk(rbd(enc)), GatewayOptions{SocketDir: "relative"}},
	} {
		result, err := ToGateway(test.doc, test.opts)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "bridge: ") {
			t.Errorf("got %v, want an error with %q; result\n%s", err, test.want, result.Domain)
		}
		var located *Error
		var syntax *xmlspan.Error
		if strings.HasPrefix(test.want, "line ") && !errors.As(err, &located) && !errors.As(err, &syntax) {
			t.Errorf("%v does not know its line", err)
		}
	}
}

func TestToLibrbdRefuses(t *testing.T) {
	doc := wrapDisk("<disk type='network'><source protocol='nbd' name='e'><host transport='unix' socket='/s'/></source><target dev='vda'/></disk>")
	good := Export{Name: "e", Socket: "/s", Image: "rbd:p/i", Keys: []Key{{LibvirtSecret: &SecretRef{Usage: "/k"}}}}
	change := func(f func(*Export)) Config {
		e := good
		f(&e)
		return Config{Exports: []Export{e}}
	}
	opts := LibrbdOptions{Targets: []string{"vda"}, Format: "luks2"}
	if _, err := ToLibrbd(doc, Config{Exports: []Export{good}}, opts); err != nil {
		t.Fatal(err)
	}
	for want, config := range map[string]Config{
		"line 4: disk vda: no export of the configuration": {},
		"line 4: disk vda: the configuration has 2":        {Exports: []Export{good, good}},
		"is not in RBD":                   change(func(e *Export) { e.Image = "file:/x" }),
		"expected rbd:POOL/":              change(func(e *Export) { e.Image = "rbd:x" }),
		"export e: no keys":               change(func(e *Export) { e.Keys = nil }),
		"export e: key 1: libvirt needs":  change(func(e *Export) { e.Keys = []Key{{File: "/k"}} }),
		"libvirt_secret without":          change(func(e *Export) { e.Keys = []Key{{LibvirtSecret: &SecretRef{}}} }),
		"export e: ceph user u: libvirt":  change(func(e *Export) { e.Ceph.User = "u" }),
		"export e: its values do not fit": change(func(e *Export) { e.Ceph.MonHosts = []string{"a:b"} }),
		"its values do not fit into":      change(func(e *Export) { e.Image = "rbd:p/\x01" }),
	} {
		result, err := ToLibrbd(doc, config, opts)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q; result\n%s", err, want, result.Domain)
		}
	}
	if _, err := ToLibrbd(doc, Config{}, LibrbdOptions{}); !errors.Is(err, ErrNothing) {
		t.Errorf("got %v, want ErrNothing", err)
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for want, text := range map[string]string{
		"line 2":  "exports:\n- nmae: x\n",
		"at most": strings.Repeat("#", MaxConfigBytes+1),
		"line 1":  "exports: 5",
	} {
		if c, err := ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %+v, %v; want an error with %q", text, c, err, want)
		}
	}
}

// Whatever the document is, nothing panics, and what can be moved can be moved back.
func FuzzRoundTrip(f *testing.F) {
	for _, doc := range corpus(f) {
		f.Add(doc)
	}
	f.Add(wrapDisk(fmt.Sprintf("<disk type='network'>%s</disk>", "<source protocol='rbd' name='a/b'/>")))
	f.Fuzz(func(t *testing.T, doc []byte) { roundTrip(t, doc) })
}
