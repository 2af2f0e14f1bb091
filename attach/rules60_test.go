// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// attributes60 are the attributes of an NBD disk that the schema of libvirt 6.0.0 knows and that do not harm qemu 4.2.
// An attribute or element that is not here is refused by checkLibvirt60, so a new one must be looked up first.
var attributes60 = map[string][]string{
	"disk":          {"type", "device"},
	"driver":        {"name", "type", "cache", "error_policy", "rerror_policy", "discard", "detect_zeroes", "iothread", "queues"},
	"source":        {"protocol", "name", "tls"},
	"host":          {"transport", "socket", "name", "port"},
	"target":        {"dev", "bus"},
	"boot":          {"order"},
	"address":       {"type", "domain", "bus", "slot", "function", "controller", "target", "unit"},
	"blockio":       {"logical_block_size", "physical_block_size"},
	"readonly":      {},
	"shareable":     {},
	"serial":        {},
	"wwn":           {},
	"iotune":        {},
	"size_iops_sec": {}, "group_name": {},
}

func init() {
	for _, th := range new(IOTune).throttles() {
		name := th.scope + "_" + th.resource + "_sec"
		for _, suffix := range []string{"", "_max", "_max_length"} {
			attributes60[name+suffix] = []string{}
		}
	}
}

// checkLibvirt60 says why libvirt 6.0.0 would reject a <disk>, or qemu 4.2 would be harmed by it. The rules were found
// by validating with the schema of libvirt 6.0.0 and by running qemu 4.2.1.
func checkLibvirt60(disk string) error {
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
		known, ok := attributes60[start.Name.Local]
		if !ok {
			return fmt.Errorf("<%s> is not known to libvirt 6.0 for an NBD disk", start.Name.Local)
		}
		for _, attr := range start.Attr {
			if !slices.Contains(known, attr.Name.Local) {
				return fmt.Errorf("<%s %s=> is not known to libvirt 6.0", start.Name.Local, attr.Name.Local)
			}
			switch attr.Name.Local {
			case "transport":
				unix = unix || attr.Value == "unix"
			case "socket":
				if !strings.HasPrefix(attr.Value, "/") {
					return fmt.Errorf("socket %q is not absolute", attr.Value)
				}
			case "tls":
				tls = tls || attr.Value == "yes"
			}
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

// The checker itself must reject what libvirt 6.0 rejects.
func TestRulesReject(t *testing.T) {
	wrap := func(driver, source, hosts string) string {
		return `<disk type="network"><driver name="qemu" ` + driver + `/><source protocol="nbd" ` + source + `>` + hosts +
			`</source><target dev="vda"/></disk>`
	}
	unix := `<host transport="unix" socket="/s"/>`
	if err := checkLibvirt60(wrap(`cache="none"`, `name="e"`, unix)); err != nil {
		t.Errorf("a good disk: %v", err)
	}
	for name, bad := range map[string]string{
		"encryption":       wrap(``, ``, unix+`<encryption format="luks"/>`),
		"two hosts":        wrap(``, ``, unix+unix),
		"no host":          wrap(``, ``, ``),
		"reconnect":        wrap(``, ``, unix+`<reconnect delay="5"/>`),
		"tlsHostname":      wrap(``, `tlsHostname="h"`, unix),
		"seclabel":         wrap(``, ``, unix+`<seclabel model="dac" relabel="no"/>`),
		"relative":         wrap(``, ``, `<host transport="unix" socket="s"/>`),
		"io_uring":         wrap(`io="io_uring"`, ``, unix),
		"queue_size":       wrap(`queue_size="256"`, ``, unix),
		"discard_no_unref": wrap(`discard_no_unref="on"`, ``, unix),
		"tls on unix":      wrap(``, `tls="yes"`, unix),
	} {
		if err := checkLibvirt60(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
