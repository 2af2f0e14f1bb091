// SPDX-License-Identifier: Apache-2.0

package plug

import (
	"context"
	"fmt"
	"strconv"

	"libvirt.org/go/libvirtxml"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/attach/virt"
)

func errorf(format string, args ...any) error { return fmt.Errorf("plug: "+format, args...) }

// A disk is one of a domain.
type disk struct {
	target string
	uri    attach.URI // of an NBD disk
	isNBD  bool
	xml    string
}

func disks(ctx context.Context, host Host, d virt.Domain, s virt.Scope) ([]disk, error) {
	text, err := host.XML(ctx, d, s)
	if err != nil {
		return nil, err
	}
	var domain libvirtxml.Domain
	if err := domain.Unmarshal(text); err != nil {
		return nil, errorf("the XML of domain %s: %w", d.Name, err)
	}
	if domain.Devices == nil {
		return nil, nil
	}
	var all []disk
	for _, device := range domain.Devices.Disks {
		found := disk{}
		if device.Target != nil {
			found.target = device.Target.Dev
		}
		found.uri, found.isNBD = source(device)
		if found.xml, err = device.Marshal(); err != nil {
			return nil, errorf("disk %s of domain %s: %w", found.target, d.Name, err)
		}
		all = append(all, found)
	}
	return all, nil
}

// source is where an NBD disk has its bytes from.
func source(device libvirtxml.DomainDisk) (attach.URI, bool) {
	if device.Source == nil || device.Source.Network == nil || device.Source.Network.Protocol != "nbd" {
		return attach.URI{}, false
	}
	network := device.Source.Network
	uri := attach.URI{Export: network.Name, TLS: network.TLS == "yes"}
	for _, host := range network.Hosts {
		if host.Socket != "" {
			uri.Socket = host.Socket
			continue
		}
		uri.Host = host.Name
		if port, err := strconv.ParseUint(host.Port, 10, 16); err == nil {
			uri.Port = int(port)
		}
	}
	return same(uri), true
}

// same makes two addresses of one export equal.
func same(uri attach.URI) attach.URI {
	if uri.Host != "" && uri.Port == 0 {
		uri.Port = attach.DefaultPort
	}
	return uri
}

// byTarget finds a disk by its name in the domain.
func byTarget(all []disk, target string) (disk, bool) {
	for _, d := range all {
		if d.target == target {
			return d, true
		}
	}
	return disk{}, false
}
