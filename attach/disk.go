// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// DiskOptions describe a disk of a guest that is an export. The zero value of a field leaves it to the default that is
// written beside it. The words before a colon are the command line flag.
type DiskOptions struct {
	// URI says where the export is (--uri, or --socket | --listen with --name and --tls).
	URI URI
	// TLSHostname is the name in the server's certificate where the URI does not say it, which is so on a unix
	// socket (--tls-hostname). From libvirt 8.2 and qemu 7.0.
	TLSHostname string
	// TLSDir is the directory of the client's certificates for Qemu* output (--tls-dir); libvirt has it in
	// qemu.conf (nbd_tls_x509_cert_dir).
	TLSDir string

	// Device is "disk" or "cdrom" (--device); default disk. A cdrom is read-only.
	Device string
	// Target is the name in the domain: vda, sdb, hdc (--target). Required.
	Target string
	// Bus is virtio, scsi, sata, ide or usb (--bus); default by the first letters of Target.
	Bus string
	// BootOrder is the place in the boot order, from 1 (--boot-order); 0 leaves it out.
	BootOrder uint
	// Serial is what the guest sees as serial number (--serial).
	Serial string
	// WWN is a World Wide Name, 16 hex digits (--wwn); not for virtio.
	WWN string
	// Address is where the device sits in the guest (--address): pci:0000:00:07.0 for virtio,
	// drive:CONTROLLER:BUS:TARGET:UNIT for scsi, sata and ide; default: libvirt chooses.
	Address string
	// LogicalBlockBytes and PhysicalBlockBytes are what the guest is told (--logical-block, --physical-block): 512
	// to 32768, powers of two; 0 leaves them to qemu.
	LogicalBlockBytes, PhysicalBlockBytes uint
	// ReadOnly: the guest must not write (--read-only).
	ReadOnly bool
	// Shareable: several guests may use the disk at once (--shareable). It needs cache none or directsync.
	Shareable bool

	// Cache is none, writeback, writethrough, directsync or unsafe (--cache); default none. With NBD none and
	// writeback are the same, writethrough and directsync make every write FUA, and unsafe drops the guest's flushes.
	Cache string
	// Discard is unmap or ignore (--discard); default unmap, so that the guest's TRIM frees space in the cluster.
	Discard string
	// DetectZeroes is off, on or unmap (--detect-zeroes); default off.
	DetectZeroes string
	// ErrorPolicy is stop, report, ignore or enospace (--error-policy); default stop: while the gateway is away the
	// guest pauses and `virsh resume` sends its requests again, where otherwise it would see I/O errors.
	ErrorPolicy string
	// ReadErrorPolicy is stop, report or ignore (--rerror-policy); default: as ErrorPolicy.
	ReadErrorPolicy string
	// Queues is the number of virtio queues (--queues); 0 leaves it to qemu.
	Queues uint
	// IOThread is the number of the domain's iothread that serves the disk (--iothread); 0 is the main thread. From
	// qemu 6.0: older ones abort when a disk with an iothread is reset or unplugged while the gateway is away.
	IOThread uint
	// ReconnectDelaySeconds is how long requests wait for a gateway that went away (--reconnect-delay). libvirt can
	// say it from 9.2; qemu itself from 4.2.
	ReconnectDelaySeconds uint
	// IOTune limits the disk's throughput (--iotune KEY=VALUE,...).
	IOTune IOTune

	// Libvirt and Qemu are the versions to write for (--libvirt, --qemu); default 6.0 and 4.2.
	Libvirt, Qemu Version
}

// Disk returns the libvirt <disk> element, indented by two spaces, with a newline at its end. Errors name the flag.
func Disk(opts DiskOptions) (string, error) {
	o, err := opts.normalize()
	if err == nil {
		err = o.checkLibvirt()
	}
	if err != nil {
		return "", fmt.Errorf("attach: disk %s: %w", describeTarget(opts.Target), err)
	}
	disk := o.element()
	text, err := disk.Marshal()
	if err != nil {
		return "", fmt.Errorf("attach: disk %s: %w", o.Target, err)
	}
	return selfClose(text) + "\n", nil
}

func describeTarget(target string) string {
	if !printable(target) || target == "" || len(target) > 64 {
		return "without a usable target"
	}
	return target
}

func (o *DiskOptions) element() *libvirtxml.DomainDisk {
	disk := &libvirtxml.DomainDisk{
		Device: o.Device,
		Driver: &libvirtxml.DomainDiskDriver{
			Name:         "qemu",
			Type:         "raw",
			Cache:        o.Cache,
			ErrorPolicy:  o.ErrorPolicy,
			RErrorPolicy: o.ReadErrorPolicy,
			Discard:      o.Discard,
			DetectZeros:  o.DetectZeroes,
			IOThread:     positive(o.IOThread),
			Queues:       positive(o.Queues),
		},
		Source: &libvirtxml.DomainDiskSource{Network: o.source()},
		Target: &libvirtxml.DomainDiskTarget{Dev: o.Target, Bus: o.Bus},
		IOTune: o.IOTune.element(),
		Serial: o.Serial,
		WWN:    o.WWN,
	}
	if o.ReadOnly {
		disk.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	if o.Shareable {
		disk.Shareable = &libvirtxml.DomainDiskShareable{}
	}
	if o.BootOrder > 0 {
		disk.Boot = &libvirtxml.DomainDeviceBoot{Order: o.BootOrder}
	}
	if o.LogicalBlockBytes > 0 || o.PhysicalBlockBytes > 0 {
		disk.BlockIO = &libvirtxml.DomainDiskBlockIO{
			LogicalBlockSize: o.LogicalBlockBytes, PhysicalBlockSize: o.PhysicalBlockBytes}
	}
	disk.Address, _ = parseAddress(o.Address) // normalize has checked it
	return disk
}

func (o *DiskOptions) source() *libvirtxml.DomainDiskSourceNetwork {
	source := &libvirtxml.DomainDiskSourceNetwork{Protocol: "nbd", Name: o.URI.Export, TLSHostname: o.TLSHostname}
	if o.URI.TLS {
		source.TLS = "yes"
	}
	host := libvirtxml.DomainDiskSourceHost{Transport: "unix", Socket: o.URI.Socket}
	if o.URI.Socket == "" {
		port := o.URI.Port
		if port == 0 {
			port = DefaultPort
		}
		host = libvirtxml.DomainDiskSourceHost{Name: o.URI.Host, Port: strconv.Itoa(port)}
	}
	source.Hosts = []libvirtxml.DomainDiskSourceHost{host}
	if o.ReconnectDelaySeconds > 0 {
		source.Reconnect = &libvirtxml.DomainDiskSourceNetworkReconnect{
			Delay: strconv.FormatUint(uint64(o.ReconnectDelaySeconds), 10)}
	}
	return source
}

func positive(n uint) *uint {
	if n == 0 {
		return nil
	}
	return &n
}

var (
	pciAddress   = regexp.MustCompile(`^pci:([0-9a-f]{1,4}):([0-9a-f]{1,2}):([01]?[0-9a-f])\.([0-7])$`)
	driveAddress = regexp.MustCompile(`^drive:([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,3}):([0-9]{1,5})$`)
)

func parseAddress(s string) (*libvirtxml.DomainAddress, error) {
	if s == "" {
		return nil, nil
	}
	fields := pciAddress.FindStringSubmatch(s)
	base := 16
	if fields == nil {
		fields = driveAddress.FindStringSubmatch(s)
		base = 10
	}
	if fields == nil {
		return nil, fmt.Errorf("--address %q: want pci:DOMAIN:BUS:SLOT.FUNCTION in hexadecimal, such as pci:0000:00:07.0, "+
			"or drive:CONTROLLER:BUS:TARGET:UNIT", s)
	}
	var n [4]uint
	for i, field := range fields[1:] {
		v, err := strconv.ParseUint(field, base, 32)
		if err != nil {
			return nil, fmt.Errorf("--address %q: %w", s, err)
		}
		n[i] = uint(v)
	}
	if base == 16 {
		if n[0] == 0 && n[1] == 0 && n[2] == 0 {
			return nil, fmt.Errorf("--address %q: slot 0 of bus 0 belongs to the host bridge", s)
		}
		return &libvirtxml.DomainAddress{PCI: &libvirtxml.DomainAddressPCI{
			Domain: &n[0], Bus: &n[1], Slot: &n[2], Function: &n[3]}}, nil
	}
	return &libvirtxml.DomainAddress{Drive: &libvirtxml.DomainAddressDrive{
		Controller: &n[0], Bus: &n[1], Target: &n[2], Unit: &n[3]}}, nil
}

// selfClose turns <a x="y"></a> into <a x="y"/>, as virsh writes it. In the output of encoding/xml "<" and ">" occur
// in markup only, so the text can be taken apart at them.
func selfClose(text string) string {
	var out strings.Builder
	for {
		i := strings.Index(text, "></")
		if i < 0 {
			out.WriteString(text)
			return out.String()
		}
		end := i + strings.IndexByte(text[i+1:], '>') + 1
		start := strings.LastIndexByte(text[:i], '<')
		name := text[i+3 : end]
		if tag := text[start+1 : i]; tag == name || strings.HasPrefix(tag, name+" ") {
			out.WriteString(text[:i] + "/>")
		} else {
			out.WriteString(text[:end+1])
		}
		text = text[end+1:]
	}
}
