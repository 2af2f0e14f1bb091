// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/xml"
	"fmt"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/attach/attachtest"
	"github.com/luksgate/luksgate/deploy/testenv"
	"libvirt.org/go/libvirtxml"
)

var socketURI = URI{Socket: "/run/luksgate/web1-vda.sock", Export: "web1-vda"}

// documented are the examples of the documentation; their output is under testdata/golden.
var documented = map[string]DiskOptions{
	"unix":     {URI: socketURI, Target: "vda"},
	"tcp-tls":  {URI: URI{Host: "gw1.example.org", Port: 10810, TLS: true, Export: "db-1"}, Target: "vdb"},
	"readonly": {URI: URI{Socket: "/run/luksgate/iso.sock"}, Target: "sda", Device: "cdrom", Bus: "sata", BootOrder: 1},
	"all": {
		URI: URI{Socket: "/run/luksgate/a&b.sock", Export: `v<1>"&'`}, Target: "sdb", Bus: "scsi", BootOrder: 2,
		Serial: "vol-0123", WWN: "5000c50015ea71aa", Address: "drive:0:0:1:0", LogicalBlockBytes: 512,
		PhysicalBlockBytes: 4096, Shareable: true, Cache: "directsync", Discard: "ignore", DetectZeroes: "on",
		ErrorPolicy: "enospace", ReadErrorPolicy: "report",
		IOTune: IOTune{
			Bytes: Limits{Read: 1 << 20, ReadMax: 1 << 22, ReadMaxSeconds: 60, Write: 1 << 19},
			Ops:   Limits{Total: 500, TotalMax: 1000, TotalMaxSeconds: 10}, OpSizeBytes: 4096, Group: "gold",
		},
	},
	"new": {
		URI: URI{Socket: "/run/luksgate/n.sock", Export: "n", TLS: true}, TLSHostname: "gw1.example.org", Target: "vdc",
		Queues: 4, IOThread: 1, ReconnectDelaySeconds: 60, Address: "pci:0000:00:07.0",
		Libvirt: Version{9, 2, 0}, Qemu: Version{7, 2, 0},
	},
}

func TestDiskGolden(t *testing.T) {
	for name, opts := range documented {
		text, err := Disk(opts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		golden(t, "disk-"+name+".xml", text)
	}
}

// matrix varies one option at a time, so that every value of every option is printed once.
func matrix() []DiskOptions {
	var all []DiskOptions
	add := func(change func(*DiskOptions)) {
		o := DiskOptions{URI: socketURI, Target: "vda"}
		change(&o)
		all = append(all, o)
	}
	for _, v := range []string{"none", "writeback", "writethrough", "directsync", "unsafe"} {
		add(func(o *DiskOptions) { o.Cache = v })
	}
	for _, v := range []string{"unmap", "ignore"} {
		add(func(o *DiskOptions) { o.Discard = v })
	}
	for _, v := range []string{"off", "on", "unmap"} {
		add(func(o *DiskOptions) { o.DetectZeroes = v })
	}
	for _, v := range []string{"stop", "report", "ignore", "enospace"} {
		add(func(o *DiskOptions) { o.ErrorPolicy = v })
		if v != "enospace" {
			add(func(o *DiskOptions) { o.ReadErrorPolicy = v })
		}
	}
	for bus, target := range map[string]string{"virtio": "vdz", "scsi": "sdaa", "sata": "sdc", "ide": "hda", "usb": "sdd"} {
		for _, device := range []string{"disk", "cdrom"} {
			if bus == "virtio" && device == "cdrom" {
				continue
			}
			add(func(o *DiskOptions) { o.Bus, o.Target, o.Device = bus, target, device })
		}
	}
	for _, host := range []string{"localhost", "gw1.example.org", "192.0.2.7", "2001:db8::7", "::1"} {
		add(func(o *DiskOptions) { o.URI = URI{Host: host, Export: "e", TLS: true} })
	}
	for _, name := range []string{"", "a b", "päth/€", "/leading", "tab'\"<&>"} {
		add(func(o *DiskOptions) { o.URI.Export = name })
	}
	for _, th := range new(IOTune).throttles() {
		name := th.scope + "_" + th.resource + "_sec"
		add(func(o *DiskOptions) {
			o.IOTune, _ = ParseIOTune(name + "=5," + name + "_max=6," + name + "_max_length=7")
		})
	}
	add(func(o *DiskOptions) { o.ReadOnly, o.Serial, o.Queues = true, "a-b_c.d+e f", 2 })
	add(func(o *DiskOptions) { o.IOThread, o.Qemu = 2, Version{6, 0, 0} })
	return all
}

func TestDiskFollowsSchema(t *testing.T) {
	documents, newer, newest := map[string]string{}, map[string]string{}, map[string]string{}
	add := func(name string, opts DiskOptions) {
		text, err := Disk(opts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if opts.Libvirt != (Version{}) {
			// This machine's schema may be older than <reconnect>; the rest of the element is validated by it.
			newest[name] = domainWith(0, text)
			newer[name] = domainWith(0, strings.Replace(text, `<reconnect delay="60"/>`, "", 1))
			return
		}
		documents[name] = domainWith(0, text)
		if err := attachtest.CheckLibvirt60(text); err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
	for name, opts := range documented {
		add(name, opts)
	}
	for i, opts := range matrix() {
		add(fmt.Sprintf("matrix%d", i), opts)
	}
	systems(t, func(t *testing.T, s testenv.System) { s.ValidateXML(t, "domain.rng", documents) })
	testenv.Here(t).ValidateXML(t, "domain.rng", newer)
	t.Run("trixie", func(t *testing.T) { testenv.Chroot(t, "trixie").ValidateXML(t, "domain.rng", newest) })
}

// What Disk prints is what was asked for, as libvirt's own structures read it.
func TestDiskReadBack(t *testing.T) {
	for i, opts := range matrix() {
		text, err := Disk(opts)
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		var disk libvirtxml.DomainDisk
		if err := disk.Unmarshal(text); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		net := disk.Source.Network
		if net == nil || len(net.Hosts) != 1 {
			t.Fatalf("%d: no network source with one host:\n%s", i, text)
		}
		if net.Name != opts.URI.Export || net.Hosts[0].Socket != opts.URI.Socket || net.Hosts[0].Name != opts.URI.Host {
			t.Errorf("%d: source of %+v became %+v", i, opts.URI, net)
		}
		if disk.Driver.ErrorPolicy == "" || disk.Driver.Discard == "" || disk.Driver.Cache == "" {
			t.Errorf("%d: a default is missing:\n%s", i, text)
		}
		if (disk.ReadOnly != nil) != (opts.ReadOnly || opts.Device == "cdrom") {
			t.Errorf("%d: read-only is wrong:\n%s", i, text)
		}
	}
}

func TestDiskRefuses(t *testing.T) {
	tests := []struct {
		want   string // what the error must name
		change func(*DiskOptions)
	}{
		{"--target", func(o *DiskOptions) { o.Target = "" }},
		{"--target", func(o *DiskOptions) { o.Target = "vda'/><x/>" }},
		{"--target", func(o *DiskOptions) { o.Target, o.Bus = "sda", "virtio" }},
		{"--bus", func(o *DiskOptions) { o.Bus = "nvme" }},
		{"--device", func(o *DiskOptions) { o.Device = "lun" }},
		{"--device cdrom", func(o *DiskOptions) { o.Device = "cdrom" }},
		{"--socket", func(o *DiskOptions) { o.URI.Socket = "luksgate.sock" }},
		{"107", func(o *DiskOptions) { o.URI.Socket = "/" + strings.Repeat("a", 107) }},
		{"--socket or host", func(o *DiskOptions) { o.URI.Socket = "" }},
		{"--socket or host", func(o *DiskOptions) { o.URI.Host = "h" }},
		{"--host", func(o *DiskOptions) { o.URI = URI{Host: "a_b"} }},
		{"--port", func(o *DiskOptions) { o.URI = URI{Host: "a", Port: 65536} }},
		{"--name", func(o *DiskOptions) { o.URI.Export = "a\x00b" }},
		{"--name", func(o *DiskOptions) { o.URI.Export = "\xff" }},
		{"4096", func(o *DiskOptions) { o.URI.Export = strings.Repeat("a", 4097) }},
		{"TLS on a unix socket", func(o *DiskOptions) { o.URI.TLS = true }},
		{"--tls-hostname", func(o *DiskOptions) { o.URI.TLS, o.Qemu = true, Version{7, 0, 0} }},
		{"--tls-hostname: known from libvirt", func(o *DiskOptions) {
			o.URI.TLS, o.TLSHostname, o.Qemu = true, "h", Version{7, 0, 0}
		}},
		{"--tls-hostname", func(o *DiskOptions) { o.TLSHostname = "h" }},
		{"--reconnect-delay", func(o *DiskOptions) { o.ReconnectDelaySeconds = 5 }},
		{"--reconnect-delay", func(o *DiskOptions) { o.ReconnectDelaySeconds, o.Libvirt = 5, Version{9, 1, 9} }},
		{"--iothread", func(o *DiskOptions) { o.IOThread = 1 }},
		{"--iothread", func(o *DiskOptions) { o.IOThread, o.Qemu = 1, Version{5, 2, 0} }},
		{"--cache", func(o *DiskOptions) { o.Cache = "writeBack" }},
		{"--discard", func(o *DiskOptions) { o.Discard = "on" }},
		{"--detect-zeroes", func(o *DiskOptions) { o.DetectZeroes = "yes" }},
		{"--detect-zeroes unmap", func(o *DiskOptions) { o.DetectZeroes, o.Discard = "unmap", "ignore" }},
		{"--error-policy", func(o *DiskOptions) { o.ErrorPolicy = "enospc" }},
		{"--rerror-policy", func(o *DiskOptions) { o.ReadErrorPolicy = "enospace" }},
		{"--shareable", func(o *DiskOptions) { o.Shareable, o.Cache = true, "writeback" }},
		{"--queues", func(o *DiskOptions) { o.Queues, o.Bus, o.Target = 2, "scsi", "sda" }},
		{"--serial", func(o *DiskOptions) { o.Serial = strings.Repeat("1", 21) }},
		{"--serial", func(o *DiskOptions) { o.Serial = "a/b" }},
		{"--wwn", func(o *DiskOptions) { o.WWN = "5000c50015ea71aa" }},
		{"--address", func(o *DiskOptions) { o.Address = "pci:0:0:20.0" }},
		{"--address", func(o *DiskOptions) { o.Address = "pci:0000:00:00.0" }},
		{"--address", func(o *DiskOptions) { o.Address = "drive:0:0:0:0" }},
		{"--logical-block", func(o *DiskOptions) { o.LogicalBlockBytes = 520 }},
		{"--physical-block", func(o *DiskOptions) { o.PhysicalBlockBytes = 65536 }},
		{"--iotune", func(o *DiskOptions) { o.IOTune.Ops = Limits{Total: 1, Read: 1} }},
		{"--iotune", func(o *DiskOptions) { o.IOTune.Bytes = Limits{Total: 2, TotalMax: 1} }},
	}
	for _, test := range tests {
		opts := DiskOptions{URI: socketURI, Target: "vda"}
		test.change(&opts)
		text, err := Disk(opts)
		if err == nil {
			t.Errorf("%+v: want an error that names %s, got\n%s", opts, test.want, text)
		} else if !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "attach: disk ") {
			t.Errorf("%+v: want an error that names %s, got %v", opts, test.want, err)
		}
	}
}

func TestParseIOTune(t *testing.T) {
	got, err := ParseIOTune("total_iops_sec=100,total_iops_sec_max=200,total_iops_sec_max_length=3,size_iops_sec=8192,group_name=g")
	want := IOTune{Ops: Limits{Total: 100, TotalMax: 200, TotalMaxSeconds: 3}, OpSizeBytes: 8192, Group: "g"}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"x=1", "total_iops_sec", "total_iops_sec=0", "total_iops_sec=-1", "total_iops_sec=1,total_iops_sec=1",
		"read_iops_sec=1,total_iops_sec=1", "total_bytes_sec_max=1", "total_bytes_sec=9,total_bytes_sec_max_length=1",
		"size_iops_sec=1", "group_name=g", "total_bytes_sec=1000000000000001", ","} {
		if got, err := ParseIOTune(bad); err == nil || !strings.Contains(err.Error(), "--iotune") {
			t.Errorf("%q: got %+v, %v; want an error that names --iotune", bad, got, err)
		}
	}
}

func TestVersion(t *testing.T) {
	for s, want := range map[string]Version{"6": {6, 0, 0}, "4.2": {4, 2, 0}, "12.7.1": {12, 7, 1}} {
		if got, err := ParseVersion(s); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", s, got, err, want)
		}
	}
	for _, bad := range []string{"", ".", "6.", "6.0.0.0", "-1", "+1", "6.x", "99999"} {
		if got, err := ParseVersion(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
	order := []Version{{4, 2, 0}, {4, 2, 1}, {4, 10, 0}, {5, 0, 0}}
	for i, v := range order {
		for j, w := range order {
			if v.AtLeast(w) != (i >= j) {
				t.Errorf("%v.AtLeast(%v) is %v", v, w, v.AtLeast(w))
			}
		}
	}
}

// Whatever the strings are, Disk returns an error or XML that says exactly what it was given.
func FuzzDisk(f *testing.F) {
	f.Add("/run/a.sock", "name", "vda", "serial")
	f.Add("/run/<&'\".sock", "]]>", "sda", "a b")
	f.Add("/\u2028", "\x00", "hda", "--")
	f.Fuzz(func(t *testing.T, socket, export, target, serial string) {
		text, err := Disk(DiskOptions{URI: URI{Socket: socket, Export: export}, Target: target, Serial: serial})
		if err != nil {
			return
		}
		var disk libvirtxml.DomainDisk
		if err := xml.Unmarshal([]byte(text), &disk); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		net := disk.Source.Network
		if net.Name != export || net.Hosts[0].Socket != socket || disk.Target.Dev != target || disk.Serial != serial {
			t.Fatalf("%q %q %q %q became\n%s", socket, export, target, serial, text)
		}
		if err := attachtest.CheckLibvirt60(text); err != nil {
			t.Fatal(err)
		}
	})
}
