// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
	"libvirt.org/go/libvirtxml"
)

// redefine has libvirt's own parser read domains and write them anew. Its test driver needs no daemon and no root.
func redefine(t *testing.T, domains []string) []string {
	t.Helper()
	virsh := testenv.Tool(t, "virsh")
	dir := t.TempDir()
	var script strings.Builder
	for i, domain := range domains {
		path := filepath.Join(dir, fmt.Sprintf("%d.xml", i))
		domain = strings.Replace(domain, "<name>t</name>", fmt.Sprintf("<name>t%d</name>", i), 1)
		if err := os.WriteFile(path, []byte(domain), 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&script, "define %s; dumpxml t%d;", path, i)
	}
	cmd := exec.Command(virsh, "-q", "-c", "test:///default", script.String())
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_RUNTIME_DIR="+dir, "XDG_CACHE_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("virsh: %v\n%s", err, out)
	}
	written := strings.SplitAfter(strings.TrimSpace(string(out)), "</domain>")
	if len(written) != len(domains)+1 {
		t.Fatalf("virsh wrote %d domains of %d:\n%s", len(written)-1, len(domains), out)
	}
	return written[:len(domains)]
}

// libvirt understands every attribute of every disk, and takes each for what was meant.
func TestLibvirtReadsDisks(t *testing.T) {
	var all []DiskOptions
	for _, opts := range documented {
		if opts.ReconnectDelaySeconds == 0 { // newer than the libvirt of the reference machine
			all = append(all, opts)
		}
	}
	all = append(all, matrix()...)
	var domains []string
	for _, opts := range all {
		text, err := Disk(opts)
		if err != nil {
			t.Fatal(err)
		}
		domains = append(domains, domainWith(text))
	}
	for i, text := range redefine(t, domains) {
		var ours, theirs libvirtxml.Domain
		if err := ours.Unmarshal(domains[i]); err != nil {
			t.Fatal(err)
		}
		if err := theirs.Unmarshal(text); err != nil {
			t.Fatal(err)
		}
		want, got := ours.Devices.Disks[0], theirs.Devices.Disks[0]
		if want.Address == nil {
			got.Address = nil // where libvirt put it
		}
		if all[i].Device == "cdrom" {
			want.ReadOnly, got.ReadOnly = nil, nil
		}
		if !reflect.DeepEqual(want, got) {
			t.Errorf("libvirt made\n%s\nof\n%s", text, domains[i])
		}
	}
}
