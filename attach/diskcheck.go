// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Serial numbers longer than these are cut by qemu without a word (virtio: VIRTIO_BLK_ID_BYTES) or refused.
var serialBytesMax = map[string]int{"virtio": 20, "sata": 20, "ide": 20, "scsi": 36, "usb": 36}

var (
	targetName = regexp.MustCompile(`^(vd|sd|hd)[a-z]{1,3}$`)
	serialText = regexp.MustCompile(`^[A-Za-z0-9_.+\- ]+$`) // libvirt's domaincommon.rng, diskSerial
	wwnText    = regexp.MustCompile(`^[0-9a-fA-F]{16}$`)
)

// normalize fills in defaults and checks what holds for libvirt and for bare qemu.
func (o DiskOptions) normalize() (DiskOptions, error) {
	o.Libvirt = o.Libvirt.or(OldestLibvirt)
	o.Qemu = o.Qemu.or(OldestQemu)
	if err := o.URI.Check(); err != nil {
		return o, fmt.Errorf("--%w", err)
	}
	if err := o.normalizeDevice(); err != nil {
		return o, err
	}
	if err := o.normalizeDriver(); err != nil {
		return o, err
	}
	if err := o.checkGuestView(); err != nil {
		return o, err
	}
	if err := o.checkTLS(); err != nil {
		return o, err
	}
	if o.IOThread > 0 && !o.Qemu.AtLeast(qemuSafeIOThread) {
		return o, fmt.Errorf("--iothread: qemu %s aborts when the disk is reset or unplugged while the gateway is away; "+
			"leave it out, or say --qemu %s or newer", o.Qemu, qemuSafeIOThread)
	}
	if o.IOThread > 0 && o.Bus != "virtio" {
		return o, errors.New("--iothread: only virtio disks have one (scsi disks share their controller's)")
	}
	if o.ReconnectDelaySeconds > 1<<31-1 {
		return o, errors.New("--reconnect-delay: want at most 2147483647 seconds")
	}
	return o, o.IOTune.check()
}

func (o *DiskOptions) normalizeDevice() error {
	if !targetName.MatchString(o.Target) {
		return fmt.Errorf("--target %q: want vdX, sdX or hdX", o.Target)
	}
	buses := map[string]string{"vd": "virtio", "sd": "scsi", "hd": "ide"}
	if err := oneOf("--device", &o.Device, "disk", "cdrom"); err != nil {
		return err
	}
	if o.Bus == "" {
		o.Bus = buses[o.Target[:2]]
	}
	if err := oneOf("--bus", &o.Bus, "virtio", "scsi", "sata", "ide", "usb"); err != nil {
		return err
	}
	if (o.Bus == "virtio") != (o.Target[:2] == "vd") || (o.Bus == "ide") != (o.Target[:2] == "hd") {
		return fmt.Errorf("--target %s: a disk on bus %s is named %sX", o.Target, o.Bus, targetPrefix(o.Bus))
	}
	if o.Device == "cdrom" {
		if o.Bus == "virtio" {
			return errors.New("--device cdrom: there is no virtio cdrom; use --target sdX")
		}
		if o.Queues > 0 || o.Shareable {
			return errors.New("--device cdrom: goes with neither --queues nor --shareable")
		}
		o.ReadOnly = true
	}
	return nil
}

func targetPrefix(bus string) string {
	switch bus {
	case "virtio":
		return "vd"
	case "ide":
		return "hd"
	}
	return "sd"
}

func (o *DiskOptions) normalizeDriver() error {
	err := errors.Join(
		oneOf("--cache", &o.Cache, "none", "writeback", "writethrough", "directsync", "unsafe"),
		oneOf("--discard", &o.Discard, "unmap", "ignore"),
		oneOf("--error-policy", &o.ErrorPolicy, "stop", "report", "ignore", "enospace"),
		optionalOneOf("--detect-zeroes", &o.DetectZeroes, "off", "on", "unmap"),
		optionalOneOf("--rerror-policy", &o.ReadErrorPolicy, "stop", "report", "ignore"))
	if err != nil {
		return err
	}
	if o.DetectZeroes == "unmap" && o.Discard != "unmap" {
		return errors.New("--detect-zeroes unmap: libvirt makes it \"on\" without --discard unmap")
	}
	if o.Shareable && o.Cache != "none" && o.Cache != "directsync" {
		return fmt.Errorf("--shareable: unsafe with --cache %s; want none or directsync", o.Cache)
	}
	if o.Queues > 0 && o.Bus != "virtio" {
		return errors.New("--queues: only virtio disks have them (scsi disks share their controller's)")
	}
	if o.Queues > 1024 {
		return errors.New("--queues: virtio has at most 1024")
	}
	return nil
}

// checkGuestView checks what the guest can see of the device.
func (o *DiskOptions) checkGuestView() error {
	if o.Serial != "" {
		if !serialText.MatchString(o.Serial) {
			return fmt.Errorf("--serial %q: want letters, digits, space and _.+-", o.Serial)
		}
		if limit := serialBytesMax[o.Bus]; len(o.Serial) > limit {
			return fmt.Errorf("--serial %q: %d characters, but qemu keeps %d on bus %s", o.Serial, len(o.Serial), limit, o.Bus)
		}
	}
	if o.WWN != "" && (!wwnText.MatchString(o.WWN) || o.Bus == "virtio" || o.Bus == "usb") {
		return fmt.Errorf("--wwn %q: want 16 hexadecimal digits, on bus scsi, sata or ide", o.WWN)
	}
	if o.BootOrder > 1<<31-1 {
		return errors.New("--boot-order: want a small number, from 1")
	}
	for _, b := range []struct {
		flag  string
		bytes uint
	}{{"--logical-block", o.LogicalBlockBytes}, {"--physical-block", o.PhysicalBlockBytes}} {
		if b.bytes != 0 && (b.bytes < 512 || b.bytes > 32768 || b.bytes&(b.bytes-1) != 0) {
			return fmt.Errorf("%s %d: want a power of two from 512 to 32768", b.flag, b.bytes)
		}
	}
	if o.PhysicalBlockBytes != 0 && o.LogicalBlockBytes > o.PhysicalBlockBytes {
		return errors.New("--logical-block: larger than --physical-block")
	}
	address, err := parseAddress(o.Address)
	if err != nil || address == nil {
		return err
	}
	if (address.PCI != nil) != (o.Bus == "virtio") || o.Bus == "usb" {
		return fmt.Errorf("--address %q: virtio wants pci:..., scsi, sata and ide want drive:..., usb none", o.Address)
	}
	return nil
}

func (o *DiskOptions) checkTLS() error {
	if o.TLSHostname != "" && (!o.URI.TLS || !dnsName.MatchString(o.TLSHostname)) {
		return fmt.Errorf("--tls-hostname %q: want a host name, and --tls", o.TLSHostname)
	}
	if !o.URI.TLS {
		return nil
	}
	if o.URI.Socket != "" && !o.Qemu.AtLeast(qemuTLSOnUnix) {
		return fmt.Errorf("--tls: qemu %s refuses TLS on a unix socket; leave it out (the socket's owner and mode decide who "+
			"may connect), or use TCP", o.Qemu)
	}
	if o.URI.Socket != "" && o.TLSHostname == "" {
		return errors.New("--tls: a unix socket has no name to check the certificate against; give --tls-hostname")
	}
	if o.TLSHostname != "" && !o.Qemu.AtLeast(qemuTLSOnUnix) {
		return fmt.Errorf("--tls-hostname: known from qemu %s on, this is %s", qemuTLSOnUnix, o.Qemu)
	}
	return nil
}

// checkLibvirt checks what only libvirt is in the way of.
func (o *DiskOptions) checkLibvirt() error {
	if o.ReconnectDelaySeconds > 0 && !o.Libvirt.AtLeast(libvirtReconnect) {
		return fmt.Errorf("--reconnect-delay: known from libvirt %s on, this is %s; --error-policy stop is what older ones have",
			libvirtReconnect, o.Libvirt)
	}
	if o.TLSHostname != "" && !o.Libvirt.AtLeast(libvirtTLSHostname) {
		return fmt.Errorf("--tls-hostname: known from libvirt %s on, this is %s", libvirtTLSHostname, o.Libvirt)
	}
	return nil
}

// oneOf sets an empty value to the first choice and refuses one that is not among them.
func oneOf(flag string, value *string, choices ...string) error {
	if *value == "" {
		*value = choices[0]
	}
	return optionalOneOf(flag, value, choices...)
}

func optionalOneOf(flag string, value *string, choices ...string) error {
	if *value == "" || slices.Contains(choices, *value) {
		return nil
	}
	last := len(choices) - 1
	return fmt.Errorf("%s %q: want %s or %s", flag, *value, strings.Join(choices[:last], ", "), choices[last])
}
