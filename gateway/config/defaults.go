// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"time"
)

// defaultMode lets the group of a socket connect.
const defaultMode Mode = 0o660

func (m *SocketMode) fill(from SocketMode) {
	m.Mode = cmp.Or(m.Mode, from.Mode)
	m.Owner = cmp.Or(m.Owner, from.Owner)
	m.Group = cmp.Or(m.Group, from.Group)
}

func (c *File) fillDefaults() {
	c.Admin.Socket = cmp.Or(c.Admin.Socket, DefaultAdminSocket)
	c.Admin.Access.fill(SocketMode{Mode: 0o600})
	c.Log.Level = cmp.Or(c.Log.Level, "info")
	c.Log.Format = cmp.Or(c.Log.Format, "text")
	c.Limits.Upgrade = cmp.Or(c.Limits.Upgrade, Duration(DefaultUpgrade))
	c.Libvirt.URI = cmp.Or(c.Libvirt.URI, DefaultLibvirtURI)
	c.Vault.Timeout = cmp.Or(c.Vault.Timeout, Duration(DefaultKeyTimeout))
	c.Barbican.Timeout = cmp.Or(c.Barbican.Timeout, Duration(DefaultKeyTimeout))
	c.Barbican.Interface = cmp.Or(c.Barbican.Interface, "public")
	c.Barbican.UserDomain = cmp.Or(c.Barbican.UserDomain, "Default")
	c.Barbican.ProjectDomain = cmp.Or(c.Barbican.ProjectDomain, "Default")
	if c.Vault.Token != nil {
		c.Vault.Token.fill(c)
	}
	if c.Vault.AppRole != nil {
		c.Vault.AppRole.Mount = cmp.Or(c.Vault.AppRole.Mount, "approle")
	}
	for i := range c.Listen {
		l := &c.Listen[i]
		l.Access.fill(SocketMode{Mode: defaultMode})
		if l.TLS != nil && l.TLS.Required == nil {
			required := true
			l.TLS.Required = &required
		}
	}
	c.Defaults.fill()
	for i := range c.Exports {
		c.Exports[i].fill(c)
	}
}

func (d *Defaults) fill() {
	d.Engine = cmp.Or(d.Engine, "auto")
	d.Lock = cmp.Or(d.Lock, "cooperative")
	d.Holes = cmp.Or(d.Holes, "zero")
	d.Zeroes = cmp.Or(d.Zeroes, "object")
	d.Open = cmp.Or(d.Open, OpenOnDemand)
	d.OpenTimeout = cmp.Or(d.OpenTimeout, Duration(DefaultOpenTimeout))
	if d.CloseAfter == nil {
		after := Duration(DefaultCloseAfter)
		d.CloseAfter = &after
	}
	d.Access.fill(SocketMode{Mode: defaultMode})
}

func (e *Export) fill(c *File) {
	d := &c.Defaults
	if e.Key != nil {
		e.Keys, e.Key = []Key{*e.Key}, nil
	}
	e.Engine = cmp.Or(e.Engine, d.Engine)
	e.Lock = cmp.Or(e.Lock, d.Lock)
	e.Holes = cmp.Or(e.Holes, d.Holes)
	e.Zeroes = cmp.Or(e.Zeroes, d.Zeroes)
	e.Open = cmp.Or(e.Open, d.Open)
	e.OpenTimeout = cmp.Or(e.OpenTimeout, d.OpenTimeout)
	if e.CloseAfter == nil {
		e.CloseAfter = d.CloseAfter
	}
	e.Access.fill(d.Access)
	if e.Allow == nil {
		e.Allow = d.Allow
	}
	e.Ceph.User = cmp.Or(e.Ceph.User, d.Ceph.User)
	e.Ceph.Conf = cmp.Or(e.Ceph.Conf, d.Ceph.Conf)
	e.KDFMemoryLimit = cmp.Or(e.KDFMemoryLimit, d.KDFMemoryLimit)
	e.Ceph.ImagesPerConnection = cmp.Or(e.Ceph.ImagesPerConnection, d.Ceph.ImagesPerConnection)
	if len(e.Ceph.MonHosts) == 0 {
		e.Ceph.MonHosts = d.Ceph.MonHosts
	}
	if e.Ceph.Key == nil {
		e.Ceph.Key = d.Ceph.Key
	}
	keys := append([]Key{}, e.Keys...) // not those of the caller
	for i := range keys {
		keys[i].fill(c)
	}
	if len(keys) > 0 {
		e.Keys = keys
	}
	if e.Ceph.Key != nil {
		k := *e.Ceph.Key
		k.fill(c)
		e.Ceph.Key = &k
	}
}

func (s *Key) fill(c *File) {
	switch {
	case s.Vault != nil:
		s.Timeout = cmp.Or(s.Timeout, c.Vault.Timeout)
	case s.Barbican != nil:
		s.Timeout = cmp.Or(s.Timeout, c.Barbican.Timeout)
	}
	s.Timeout = cmp.Or(s.Timeout, Duration(DefaultKeyTimeout))
	if s.Vault != nil {
		v := *s.Vault
		v.Mount = cmp.Or(v.Mount, DefaultVaultMount)
		v.Field = cmp.Or(v.Field, DefaultVaultField)
		v.Encoding = cmp.Or(v.Encoding, "raw")
		s.Vault = &v
	}
	if s.Barbican != nil {
		b := *s.Barbican
		b.Encoding = cmp.Or(b.Encoding, "hex")
		s.Barbican = &b
	}
}

// CloseDelay is how long the image stays open after its last client.
func (e *Export) CloseDelay() time.Duration {
	if e.CloseAfter == nil {
		return DefaultCloseAfter
	}
	return time.Duration(*e.CloseAfter)
}
