// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"errors"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/attach/xmlspan"
)

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
		"line 2":  "exports:\n- names: x\n",
		"at most": strings.Repeat("#", MaxConfigBytes+1),
		"line 1":  "exports: 5",
	} {
		if c, err := ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %+v, %v; want an error with %q", text, c, err, want)
		}
	}
}
