// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"strings"
	"testing"

	"github.com/luksgate/luksgate/attach/xmlspan"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// rewrite has libvirt's own parser read a domain and write it anew.
func rewrite(t *testing.T, s testenv.System, doc []byte) []byte {
	t.Helper()
	return []byte(s.Redefine(t, []string{string(doc)})[0])
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
			system := testenv.Here(t)
			rewrite(t, system, there.Domain)

			first := rewrite(t, system, doc) // with the UUID and MAC addresses that libvirt made up
			if there, err = ToGateway(first, GatewayOptions{}); err != nil {
				t.Fatal(err)
			}
			back, err := ToLibrbd(rewrite(t, system, there.Domain), there.Config, LibrbdOptions{})
			if err != nil {
				t.Fatal(err)
			}
			rest, want := withoutMoved(t, first)
			gotRest, got := withoutMoved(t, rewrite(t, system, back.Domain))
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
