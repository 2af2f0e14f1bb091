// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/crypt/volume"
	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/gateway/key"
	"github.com/luksgate/luksgate/gateway/key/barbican"
	"github.com/luksgate/luksgate/gateway/key/command"
	"github.com/luksgate/luksgate/gateway/key/libvirt"
	"github.com/luksgate/luksgate/gateway/key/vault"
	"github.com/luksgate/luksgate/gateway/metrics"
)

// keyring makes key sources of what the configuration says.
type keyring struct {
	libvirtSockets []string
	libvirtURI     string
	vault          *vault.Server   // nil if none is configured
	barbican       *barbican.Cloud // nil if none is configured
}

// defaultLibvirtSockets are where secrets are asked for: the modular daemon, or the one for everything.
var defaultLibvirtSockets = []string{"/run/libvirt/virtsecretd-sock", "/run/libvirt/libvirt-sock"}

func newKeyring(c *config.File) (keyring, error) {
	r := keyring{libvirtSockets: defaultLibvirtSockets, libvirtURI: c.Libvirt.URI}
	if c.Libvirt.Socket != "" {
		r.libvirtSockets = []string{c.Libvirt.Socket}
	}
	if v := c.Vault; v.Address != "" {
		cfg := vault.Config{
			Address: v.Address, Namespace: v.Namespace, CAFile: v.CAFile, ServerName: v.Name, TokenFile: v.TokenFile,
		}
		if v.Token != nil {
			token, err := r.source(v.Token, libvirt.Volume)
			if err != nil {
				return r, err
			}
			cfg.Token = token
		}
		if a := v.AppRole; a != nil {
			cfg.RoleMount, cfg.RoleID, cfg.SecretIDFile = a.Mount, a.RoleID, a.SecretIDFile
		}
		server, err := vault.New(cfg)
		if err != nil {
			return r, err
		}
		r.vault = server
	}
	if b := c.Barbican; b.AuthURL != "" {
		cloud, err := barbican.New(barbican.Config{
			AuthURL: b.AuthURL, Username: b.Username, UserDomain: b.UserDomain, Project: b.Project,
			ProjectDomain: b.ProjectDomain, CredentialID: b.ApplicationCredentialID, PasswordFile: b.PasswordFile,
			Region: b.Region, Interface: b.Interface, CAFile: b.CAFile,
		})
		if err != nil {
			return r, err
		}
		r.barbican = cloud
	}
	return r, nil
}

// source is where a key is from; usage matters to libvirt only. It is not asked yet.
func (r keyring) source(k *config.Key, usage libvirt.Usage) (key.Source, error) {
	var s key.Source
	switch {
	case k.File != "":
		s = key.File(k.File)
	case k.FD != nil:
		s = key.SharedFD(*k.FD)
	case k.Credential != "":
		s = key.Credential(k.Credential)
	case len(k.Command) > 0:
		s = command.Source(k.Command)
	case k.LibvirtSecret != nil:
		s = libvirt.Source{
			Sockets: r.libvirtSockets, URI: r.libvirtURI,
			UUID: k.LibvirtSecret.UUID, Usage: usage, UsageID: k.LibvirtSecret.Usage,
		}
	case k.Vault != nil && r.vault != nil:
		v := k.Vault
		s = r.vault.Source(vault.Secret{
			Mount: v.Mount, Path: v.Path, Field: v.Field, Version: v.Version, Base64: v.Encoding == "base64",
		})
	case k.Barbican != nil && r.barbican != nil:
		s = r.barbican.Source(k.Barbican.Secret, k.Barbican.Encoding == "raw")
	default:
		return nil, fmt.Errorf("daemon: key from %s: not configured", keyName(k))
	}
	if k.TrimNewline {
		s = key.TrimNewline{Source: s}
	}
	return s, nil
}

// keyName says where a key is from, in words.
func keyName(k *config.Key) string {
	switch {
	case k.File != "":
		return "file " + k.File
	case k.FD != nil:
		return fmt.Sprintf("file descriptor %d", *k.FD)
	case k.Credential != "":
		return "credential " + k.Credential
	case len(k.Command) > 0:
		return "command " + k.Command[0]
	case k.LibvirtSecret != nil:
		return "libvirt secret " + k.LibvirtSecret.UUID + k.LibvirtSecret.Usage
	case k.Vault != nil:
		return "vault " + k.Vault.Mount + "/" + k.Vault.Path
	case k.Barbican != nil:
		return "barbican " + k.Barbican.Secret
	default:
		return "nowhere"
	}
}

// keyRetryPauses are between attempts at a source that does not answer.
var keyRetryPauses = []time.Duration{250 * time.Millisecond, time.Second, 3 * time.Second}

// patient asks a source again that is down, counts, and bounds the time of each attempt.
type patient struct {
	key.Source
	timeout time.Duration
	stats   *metrics.Export
}

// Passphrase implements key.Source.
func (p patient) Passphrase(ctx context.Context) (*secret.Bytes, error) {
	for attempt := 0; ; attempt++ {
		start := time.Now()
		one, cancel := context.WithTimeout(ctx, p.timeout)
		b, err := p.Source.Passphrase(one)
		cancel()
		p.stats.KeyFetched(time.Since(start), err)
		if err == nil || !errors.Is(err, key.ErrUnavailable) || attempt == len(keyRetryPauses) {
			return b, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(keyRetryPauses[attempt]):
		}
	}
}

func (d *Daemon) patientSource(k *config.Key, usage libvirt.Usage, stats *metrics.Export) (key.Source, error) {
	d.mu.Lock()
	ring := d.keys
	d.mu.Unlock()
	s, err := ring.source(k, usage)
	if err != nil {
		return nil, err
	}
	return patient{s, time.Duration(k.Timeout), stats}, nil
}

// gatewayConfig is what an export's configuration means to package gateway.
func (d *Daemon) gatewayConfig(ctx context.Context, c *config.Export, e *export) (gateway.Config, error) {
	ref, err := image.ParseRef(c.Image)
	if err != nil {
		return gateway.Config{}, err
	}
	out := gateway.Config{
		Image: ref, ReadOnly: c.ReadOnly, Plain: c.Plain, Engine: gateway.Engine(c.Engine), Lock: rbd.LockMode(c.Lock),
		Ceph:   rbd.Config{ConfFile: c.Ceph.Conf, User: c.Ceph.User, ImagesPerConnection: c.Ceph.ImagesPerConnection},
		Header: c.Header, KDFMemoryLimitBytes: uint64(c.KDFMemoryLimit), Logger: e.log, Observer: e.stats,
		ShareParents: true,
	}
	if c.Holes == "decrypt" {
		out.Holes = volume.HolesDecrypt
	}
	switch c.Zeroes {
	case "encrypt":
		out.Zeroes = volume.ZeroesEncrypt
	case "punch":
		out.Zeroes = volume.ZeroesPunch
	default:
		out.Zeroes = volume.ZeroesObject
	}
	for i := range c.Keys {
		source, err := d.patientSource(&c.Keys[i], libvirt.Volume, e.stats)
		if err != nil {
			return out, err
		}
		if i == 0 {
			out.Key = source
		} else {
			out.ParentKeys = append(out.ParentKeys, source)
		}
	}
	if ref.Scheme == image.RBD {
		out.Ceph.Options, err = d.cephOptions(ctx, c, e)
	}
	return out, err
}

// cephOptions are the settings for a cluster that an export names itself.
func (d *Daemon) cephOptions(ctx context.Context, c *config.Export, e *export) (map[string]string, error) {
	options := map[string]string{}
	if len(c.Ceph.MonHosts) > 0 {
		options["mon_host"] = strings.Join(c.Ceph.MonHosts, ",")
	}
	if c.Ceph.Key != nil {
		s, err := d.patientSource(c.Ceph.Key, libvirt.Ceph, e.stats)
		if err != nil {
			return nil, err
		}
		b, err := s.Passphrase(ctx)
		if err != nil {
			return nil, fmt.Errorf("key of client.%s: %w", c.Ceph.User, err)
		}
		defer b.Release()
		// librados takes a string; that copy stays until the collector takes it.
		options["key"] = strings.TrimSpace(string(b.Bytes()))
	}
	return options, nil
}
