// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/attach/attachtest"
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

// moreSecrets are those of the layers below the first, between which there is white space.
var moreSecrets = regexp.MustCompile(`(<secret type=['"]passphrase['"][^>]*/>)(\s*<secret type=['"]passphrase['"][^>]*/>)+`)

// asOf90 takes what is newer than the schema of libvirt 9.0 out of a domain: several secrets for a disk and luks-any (9.3).
func asOf90(domain string) string {
	return strings.ReplaceAll(moreSecrets.ReplaceAllString(domain, "$1"), "luks-any", "luks2")
}

// Every domain that is written follows the schema, and its disks the rules of libvirt 6.0. The gateway's domains also follow
// the oldest schema that a Debian has, and libvirt 7.0 takes them; all of them follow that of libvirt 11.3.
func TestFollowsSchema(t *testing.T) {
	gateway, librbd, known := map[string]string{}, map[string]string{}, map[string]string{}
	var domains []string
	for name, doc := range corpus(t) {
		result, err := ToGateway(doc, GatewayOptions{})
		if err != nil {
			t.Fatal(err)
		}
		gateway[name] = string(result.Domain)
		domains = append(domains, string(result.Domain))
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
		librbd[name] = string(back.Domain)
		known[name] = asOf90(string(back.Domain))
	}
	testenv.Here(t).ValidateXML(t, "domain.rng", gateway)
	testenv.Here(t).ValidateXML(t, "domain.rng", known)
	t.Run("trixie", func(t *testing.T) {
		s := testenv.Chroot(t, "trixie")
		s.ValidateXML(t, "domain.rng", gateway)
		s.ValidateXML(t, "domain.rng", librbd)
	})
	t.Run("bullseye", func(t *testing.T) {
		s := testenv.Chroot(t, "bullseye")
		s.ValidateXML(t, "domain.rng", gateway)
		s.Redefine(t, domains)
	})
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

// Whatever the document is, nothing panics, and what can be moved can be moved back.
func FuzzRoundTrip(f *testing.F) {
	for _, doc := range corpus(f) {
		f.Add(doc)
	}
	f.Add(wrapDisk(fmt.Sprintf("<disk type='network'>%s</disk>", "<source protocol='rbd' name='a/b'/>")))
	f.Fuzz(func(t *testing.T, doc []byte) { roundTrip(t, doc) })
}
