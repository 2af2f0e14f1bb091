// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// diskFlagCases are all flags of "xml disk", and what each changes in the XML. Versions are given, so nobody is asked.
var diskFlagCases = map[string]struct{ args, text string }{
	"uri":             {"--uri nbd://h:1/x --target vda", `name="x"`},
	"socket":          {"--socket /s --target vda", `<host transport="unix" socket="/s"/>`},
	"listen":          {"--listen [::1]:7 --target vda", `<host name="::1" port="7"/>`},
	"name":            {"--name other", `name="other"`},
	"tls":             {"--listen h:7 --tls --target vda", `tls="yes"`},
	"tls-hostname":    {"--listen h:7 --tls --target vda --tls-hostname gate", `tlsHostname="gate"`},
	"tls-dir":         {"--tls-dir /etc/pki", ""}, // of qemu's form only
	"target":          {"--socket /s --target vdq", `dev="vdq"`},
	"device":          {"--socket /s --target sda --device cdrom", `device="cdrom"`},
	"bus":             {"--socket /s --target sda --bus usb", `bus="usb"`},
	"boot-order":      {"--boot-order 3", `<boot order="3"/>`},
	"serial":          {"--serial abc", `<serial>abc</serial>`},
	"wwn":             {"--socket /s --target sda --wwn 5000c50015ea71ad", `<wwn>5000c50015ea71ad</wwn>`},
	"address":         {"--address pci:0000:01:07.2", `bus="0x01" slot="0x07" function="0x2"`},
	"logical-block":   {"--logical-block 4096", `logical_block_size="4096"`},
	"physical-block":  {"--physical-block 8192", `physical_block_size="8192"`},
	"read-only":       {"--read-only", `<readonly/>`},
	"shareable":       {"--shareable", `<shareable/>`},
	"cache":           {"--cache directsync", `cache="directsync"`},
	"discard":         {"--discard ignore", `discard="ignore"`},
	"detect-zeroes":   {"--detect-zeroes unmap", `detect_zeroes="unmap"`},
	"error-policy":    {"--error-policy report", `error_policy="report"`},
	"rerror-policy":   {"--rerror-policy ignore", `rerror_policy="ignore"`},
	"queues":          {"--queues 5", `queues="5"`},
	"iothread":        {"--iothread 6", `iothread="6"`},
	"reconnect-delay": {"--reconnect-delay 9", `<reconnect delay="9"/>`},
	"iotune":          {"--iotune total_iops_sec=11,write_bytes_sec_max=12,write_bytes_sec=2", `<write_bytes_sec_max>12</write_bytes_sec_max>`},
	"libvirt":         {"--libvirt 10.0", ""},
	"qemu":            {"--qemu 9.0", ""},
	"connect":         {"--connect qemu:///system", ""},
}

// TestXMLDiskFlags gives every flag on its own: it changes what it is meant to change, and a flag without a case here fails.
func TestXMLDiskFlags(t *testing.T) {
	newXMLDisk(std{}).Flags().VisitAll(func(f *pflag.Flag) {
		if _, ok := diskFlagCases[f.Name]; !ok && f.Name != "help" {
			t.Errorf("no case for --%s", f.Name)
		}
	})
	plain := printed(t, newXMLDisk, "--socket /s --target vda --libvirt 10.0 --qemu 9.0")
	documents := map[string]string{}
	for name, c := range diskFlagCases {
		args := c.args
		if !strings.Contains(args, "--target") {
			args = "--socket /s --target vda " + args
		}
		for _, version := range []string{"--libvirt 10.0", "--qemu 9.0"} {
			if flag, _, _ := strings.Cut(version, " "); !strings.Contains(args, flag) {
				args += " " + version
			}
		}
		text := printed(t, newXMLDisk, args)
		if !strings.Contains(text, c.text) || c.text == "" && text != plain || name != "socket" && c.text != "" && strings.Contains(plain, c.text) {
			t.Errorf("--%s: want %s in\n%s", name, c.text, text)
		}
		if name != "reconnect-delay" { // newer than the reference machine
			documents[name] = `<domain type="kvm"><name>n</name><memory>1</memory><os><type>hvm</type></os><devices>` + text + `</devices></domain>`
		}
	}
	testenv.Here(t).ValidateXML(t, "domain.rng", documents)
}

// printed is what a command prints.
func printed(t *testing.T, newCommand func(std) *cobra.Command, args string) string {
	t.Helper()
	var out bytes.Buffer
	cmd := newCommand(std{out: &out, err: &out})
	cmd.SetArgs(strings.Fields(args))
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("%s: %v", args, err)
	}
	return out.String()
}
