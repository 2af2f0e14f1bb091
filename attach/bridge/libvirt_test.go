// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/attach/xmlspan"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// rewrite has libvirt's own parser read a domain and write it anew. Its test driver needs no daemon and no root.
func rewrite(t *testing.T, doc []byte) []byte {
	t.Helper()
	virsh := testenv.Tool(t, "virsh")
	d, err := parseDomain(doc)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "domain.xml")
	if err := os.WriteFile(path, doc, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(virsh, "-q", "-c", "test:///default", "define "+path+"; dumpxml '"+d.name+"'")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_RUNTIME_DIR="+dir, "XDG_CACHE_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("virsh: %v\n%s\n%s", err, out, doc)
	}
	return bytes.TrimSpace(out)
}

// withoutMoved returns a document without the disks that are moved, and what these mean.
func withoutMoved(t *testing.T, doc []byte) (string, []Export) {
	t.Helper()
	d, err := parseDomain(doc)
	if err != nil {
		t.Fatal(err)
	}
	var edits []xmlspan.Edit
	var exports []Export
	for _, entry := range d.disks {
		if !hasLibrbdEncryption(entry) {
			continue
		}
		export, err := readLibrbdDisk(entry)
		if err != nil {
			t.Fatal(err)
		}
		exports = append(exports, export)
		edits = append(edits, xmlspan.Edit{Start: entry.element.Start, End: entry.element.End})
	}
	return string(xmlspan.Apply(doc, edits)), exports
}

// libvirt takes the gateway's domain, writes it in its own way, and the way back from there still gives a domain that
// libvirt takes for the one that there was at first.
func TestThroughLibvirt(t *testing.T) {
	for name, doc := range corpus(t) {
		if strings.Contains(string(doc), "luks-any") {
			continue // newer than the libvirt of the reference machine
		}
		t.Run(name, func(t *testing.T) {
			there, err := ToGateway(doc, GatewayOptions{})
			if err != nil {
				t.Fatal(err)
			}
			rewrite(t, there.Domain)

			first := rewrite(t, doc) // with the UUID and MAC addresses that libvirt made up
			if there, err = ToGateway(first, GatewayOptions{}); err != nil {
				t.Fatal(err)
			}
			back, err := ToLibrbd(rewrite(t, there.Domain), there.Config, LibrbdOptions{})
			if err != nil {
				t.Fatal(err)
			}
			rest, want := withoutMoved(t, first)
			gotRest, got := withoutMoved(t, rewrite(t, back.Domain))
			if gotRest != rest {
				t.Errorf("the rest of the domain became\n%s\nwas\n%s", gotRest, rest)
			}
			if len(got) != len(want) {
				t.Fatalf("%d encrypted disks became %d", len(want), len(got))
			}
			for i := range got {
				if !sameExport(got[i], want[i]) {
					t.Errorf("disk %d became %+v, was %+v", i, got[i], want[i])
				}
			}
		})
	}
}
