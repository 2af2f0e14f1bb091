// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"reflect"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
	"libvirt.org/go/libvirtxml"
)

// libvirt understands every attribute of every disk, and takes each for what was meant.
func TestLibvirtReadsDisks(t *testing.T) {
	var all []DiskOptions
	for _, opts := range documented {
		if opts.Libvirt == (Version{}) {
			all = append(all, opts)
		}
	}
	all = append(all, matrix()...)
	var domains []string
	for i, opts := range all {
		text, err := Disk(opts)
		if err != nil {
			t.Fatal(err)
		}
		domains = append(domains, domainWith(i, text))
	}
	systems(t, func(t *testing.T, s testenv.System) {
		for i, text := range s.Redefine(t, domains) {
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
	})
}
