// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"net"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/attach"
)

// diskFlags describe a guest's disk; attach.DiskOptions says what each means.
type diskFlags struct {
	opts                      attach.DiskOptions
	uri, socket, listen, name string
	tls                       bool
	iotune                    string
	host                      hostFlags
}

func (f *diskFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.uri, "uri", "", "NBD URI of the export, as luksgate export prints it")
	fs.StringVar(&f.socket, "socket", "", "unix socket of the export")
	fs.StringVar(&f.listen, "listen", "", "HOST:PORT of the export")
	fs.StringVar(&f.name, "name", "", "name of the export (default: the server's default export)")
	fs.BoolVar(&f.tls, "tls", false, "with --listen: the connection is encrypted")
	fs.StringVar(&f.opts.TLSHostname, "tls-hostname", "", "name in the server's certificate (libvirt 8.2 or newer)")
	fs.StringVar(&f.opts.TLSDir, "tls-dir", "", "for qemu: directory of the client's certificates")
	f.addGuestView(fs)
	f.host.add(fs)
}

// addGuestView adds what is said about the disk in the guest, wherever the export is.
func (f *diskFlags) addGuestView(fs *pflag.FlagSet) {
	o := &f.opts
	fs.StringVar(&o.Target, "target", "", "name of the disk in the domain: vda, sdb, ...")
	fs.StringVar(&o.Device, "device", "", "disk or cdrom (default disk)")
	fs.StringVar(&o.Bus, "bus", "", "virtio, scsi, sata, ide or usb (default: by the target)")
	fs.UintVar(&o.BootOrder, "boot-order", 0, "place in the boot order, from 1")
	fs.StringVar(&o.Serial, "serial", "", "serial number that the guest sees")
	fs.StringVar(&o.WWN, "wwn", "", "World Wide Name, 16 hex digits")
	fs.StringVar(&o.Address, "address", "", "pci:DOMAIN:BUS:SLOT.FUNCTION or drive:CONTROLLER:BUS:TARGET:UNIT")
	fs.UintVar(&o.LogicalBlockBytes, "logical-block", 0, "logical block size that the guest sees, in bytes")
	fs.UintVar(&o.PhysicalBlockBytes, "physical-block", 0, "physical block size that the guest sees, in bytes")
	fs.BoolVarP(&o.ReadOnly, "read-only", "r", false, "the guest must not write")
	fs.BoolVar(&o.Shareable, "shareable", false, "several guests may use the disk at once")
	fs.StringVar(&o.Cache, "cache", "", "none, writeback, writethrough, directsync or unsafe (default none)")
	fs.StringVar(&o.Discard, "discard", "", "unmap or ignore (default unmap)")
	fs.StringVar(&o.DetectZeroes, "detect-zeroes", "", "off, on or unmap (default off)")
	fs.StringVar(&o.ErrorPolicy, "error-policy", "", "stop, report, ignore or enospace (default stop)")
	fs.StringVar(&o.ReadErrorPolicy, "rerror-policy", "", "stop, report or ignore (default: as --error-policy)")
	fs.UintVar(&o.Queues, "queues", 0, "number of virtio queues")
	fs.UintVar(&o.IOThread, "iothread", 0, "number of the iothread (qemu 6.0 or newer)")
	fs.UintVar(&o.ReconnectDelaySeconds, "reconnect-delay", 0,
		"seconds that requests wait for a gateway that went away (libvirt 9.2 or newer)")
	fs.StringVar(&f.iotune, "iotune", "", "limits: KEY=VALUE,... with the names of libvirt's <iotune>")
}

func (f *diskFlags) options(ctx context.Context) (attach.DiskOptions, error) {
	var err error
	if f.opts.URI, err = f.address(); err != nil {
		return f.opts, err
	}
	if f.opts.Libvirt, f.opts.Qemu, err = f.host.versions(ctx); err != nil {
		return f.opts, err
	}
	return f.opts, f.finish()
}

// finish reads what is more than a word.
func (f *diskFlags) finish() error {
	if f.iotune == "" {
		return nil
	}
	var err error
	f.opts.IOTune, err = attach.ParseIOTune(f.iotune)
	return attachError(err)
}

func (f *diskFlags) address() (attach.URI, error) {
	given := 0
	for _, s := range []string{f.uri, f.socket, f.listen} {
		if s != "" {
			given++
		}
	}
	if given != 1 {
		return attach.URI{}, usage("give one of --uri, --socket and --listen")
	}
	if f.uri != "" {
		if f.name != "" || f.tls {
			return attach.URI{}, usage("--uri has the name and the scheme in it: leave --name and --tls out")
		}
		u, err := attach.ParseURI(f.uri)
		return u, attachError(err)
	}
	u := attach.URI{Socket: f.socket, TLS: f.tls, Export: f.name}
	if f.listen != "" {
		host, port, err := splitHostPort(f.listen)
		if err != nil {
			return attach.URI{}, err
		}
		u.Host, u.Port = host, port
	}
	return u, nil
}

// splitHostPort reads HOST:PORT; the port is NBD's where it is left out.
func splitHostPort(s string) (string, int, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, usage("--listen %q: expected HOST:PORT, with [] around an IPv6 address", s)
	}
	if port == "" {
		return host, attach.DefaultPort, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", 0, usage("--listen %q: expected a port number from 0 to 65535", s)
	}
	return host, int(n), nil
}

func version(s, flag string) (attach.Version, error) {
	if s == "" {
		return attach.Version{}, nil
	}
	v, err := attach.ParseVersion(s)
	if err != nil {
		return v, usage("%s: %v", flag, err)
	}
	return v, nil
}
