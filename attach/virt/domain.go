// SPDX-License-Identifier: Apache-2.0

package virt

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/digitalocean/go-libvirt"
)

// A Scope is one of the two definitions of a domain.
type Scope int

// Live is the domain that runs; Config is what it is started with next.
const (
	Live Scope = iota
	Config
)

func (s Scope) String() string {
	if s == Config {
		return "configuration"
	}
	return "running domain"
}

func (s Scope) modify() uint32 {
	if s == Config {
		return uint32(libvirt.DomainDeviceModifyConfig)
	}
	return uint32(libvirt.DomainDeviceModifyLive)
}

// A Domain is a virtual machine.
type Domain struct {
	Name string
	UUID [16]byte
	// Running has a Live definition, Persistent a Config.
	Running, Persistent bool
	rpc                 libvirt.Domain
}

// Domain finds a domain by its name or else by its UUID.
func (c *Conn) Domain(ctx context.Context, name string) (Domain, error) {
	var d Domain
	err := c.call(ctx, fmt.Sprintf("domain %q", name), func() error {
		found, err := c.rpc.DomainLookupByName(name)
		if uuid, ok := parseUUID(name); libvirt.IsNotFound(err) && ok {
			found, err = c.rpc.DomainLookupByUUID(uuid)
		}
		if err != nil {
			return err
		}
		running, err := c.rpc.DomainIsActive(found)
		if err != nil {
			return err
		}
		persistent, err := c.rpc.DomainIsPersistent(found)
		d = Domain{Name: found.Name, UUID: found.UUID, Running: running != 0, Persistent: persistent != 0, rpc: found}
		return err
	})
	return d, err
}

// UUIDText is the UUID as libvirt prints it.
func (d Domain) UUIDText() string {
	h := hex.EncodeToString(d.UUID[:])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

func parseUUID(s string) (libvirt.UUID, bool) {
	var u libvirt.UUID
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(u) {
		return u, false
	}
	copy(u[:], b)
	return u, true
}

// XML is one of the domain's definitions, without secrets.
func (c *Conn) XML(ctx context.Context, d Domain, s Scope) (string, error) {
	var text string
	flags := libvirt.DomainXMLFlags(0)
	if s == Config {
		flags = libvirt.DomainXMLInactive
	}
	err := c.call(ctx, fmt.Sprintf("the XML of domain %s", d.Name), func() error {
		var err error
		text, err = c.rpc.DomainGetXMLDesc(d.rpc, flags)
		return err
	})
	return text, err
}

// Attach adds a device.
func (c *Conn) Attach(ctx context.Context, d Domain, s Scope, device string) error {
	return c.call(ctx, fmt.Sprintf("adding the disk to the %v of %s", s, d.Name), func() error {
		return c.rpc.DomainAttachDeviceFlags(d.rpc, device, s.modify())
	})
}

// Detach removes a device. From a running domain it is gone only when the guest has let it go, which XML shows.
func (c *Conn) Detach(ctx context.Context, d Domain, s Scope, device string) error {
	return c.call(ctx, fmt.Sprintf("removing the disk from the %v of %s", s, d.Name), func() error {
		return c.rpc.DomainDetachDeviceFlags(d.rpc, device, s.modify())
	})
}

// Reads is how many requests for reading the guest has sent to a disk since it was plugged in.
func (c *Conn) Reads(ctx context.Context, d Domain, target string) (int64, error) {
	var reads int64
	err := c.call(ctx, fmt.Sprintf("the counters of disk %s of %s", target, d.Name), func() error {
		var err error
		reads, _, _, _, _, err = c.rpc.DomainBlockStats(d.rpc, target)
		return err
	})
	return reads, err
}
