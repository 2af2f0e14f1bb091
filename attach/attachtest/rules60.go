// SPDX-License-Identifier: Apache-2.0

// Package attachtest judges XML in tests.
package attachtest

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// attributes60 are the attributes of an NBD disk that the schema of libvirt 6.0.0 knows and that do not harm qemu 4.2.
// An attribute or element that is not here is refused by CheckLibvirt60, so a new one must be looked up first.
var attributes60 = map[string][]string{
	"disk":          {"type", "device", "snapshot"},
	"driver":        {"name", "type", "cache", "error_policy", "rerror_policy", "discard", "detect_zeroes", "iothread", "queues"},
	"source":        {"protocol", "name", "tls"},
	"host":          {"transport", "socket", "name", "port"},
	"backingStore":  {},
	"target":        {"dev", "bus"},
	"boot":          {"order"},
	"alias":         {"name"},
	"address":       {"type", "domain", "bus", "slot", "function", "controller", "target", "unit"},
	"blockio":       {"logical_block_size", "physical_block_size"},
	"readonly":      {},
	"shareable":     {},
	"serial":        {},
	"wwn":           {},
	"iotune":        {},
	"size_iops_sec": {},
	"group_name":    {},
}

func init() {
	for _, scope := range []string{"total", "read", "write"} {
		for _, resource := range []string{"bytes", "iops"} {
			for _, suffix := range []string{"", "_max", "_max_length"} {
				attributes60[scope+"_"+resource+"_sec"+suffix] = []string{}
			}
		}
	}
}

// CheckLibvirt60 says why libvirt 6.0.0 would reject a <disk> on NBD, or qemu 4.2 would be harmed by it. The rules were
// found by validating with the schema of libvirt 6.0.0 and by running qemu 4.2.1.
func CheckLibvirt60(disk string) error {
	hosts, unix, tls := 0, false, false
	d := xml.NewDecoder(strings.NewReader(disk))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if err := check60(start); err != nil {
			return err
		}
		for _, attr := range start.Attr {
			unix = unix || attr.Name.Local == "transport" && attr.Value == "unix"
			tls = tls || attr.Name.Local == "tls" && attr.Value == "yes"
		}
		if start.Name.Local == "host" {
			hosts++
		}
	}
	if hosts != 1 {
		return fmt.Errorf("%d <host> elements, want one", hosts)
	}
	if unix && tls {
		return errors.New("qemu 4.2 refuses TLS on a unix socket")
	}
	return nil
}

func check60(start xml.StartElement) error {
	known, ok := attributes60[start.Name.Local]
	if !ok {
		return fmt.Errorf("<%s> is not known to libvirt 6.0 for an NBD disk", start.Name.Local)
	}
	for _, attr := range start.Attr {
		if !slices.Contains(known, attr.Name.Local) {
			return fmt.Errorf("<%s %s=> is not known to libvirt 6.0", start.Name.Local, attr.Name.Local)
		}
		if attr.Name.Local == "socket" && !strings.HasPrefix(attr.Value, "/") {
			return fmt.Errorf("socket %q is not absolute", attr.Value)
		}
	}
	return nil
}
