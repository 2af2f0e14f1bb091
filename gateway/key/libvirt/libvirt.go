// SPDX-License-Identifier: Apache-2.0

// Package libvirt gets passphrases and ceph keys from secrets of a libvirt daemon, by its remote protocol.
package libvirt

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway/key"
)

// Usage is the kind of a secret that is named by its usage.
type Usage int32

// The kinds: LUKS passphrases are "volume" secrets, keys of ceph users "ceph" ones.
const (
	Volume = Usage(libvirt.SecretUsageTypeVolume)
	Ceph   = Usage(libvirt.SecretUsageTypeCeph)
)

// A Source is a secret, named by UUID or by Usage and UsageID.
type Source struct {
	// Sockets are tried in order; URI is what is asked for there, such as secret:///system.
	Sockets []string
	URI     string

	UUID    string
	Usage   Usage
	UsageID string
}

// String implements key.Source.
func (s Source) String() string {
	if s.UUID != "" {
		return "libvirt secret " + s.UUID
	}
	return fmt.Sprintf("libvirt secret with usage %q", s.UsageID)
}

// Passphrase implements key.Source; the key of a ceph user is base64, as Ceph has it. The value of a private secret never leaves libvirtd, by libvirt's own rule.
func (s Source) Passphrase(ctx context.Context) (*secret.Bytes, error) {
	if s.UUID != "" {
		if b, err := hex.DecodeString(strings.ReplaceAll(s.UUID, "-", "")); err != nil || len(b) != libvirt.UUIDBuflen {
			return nil, fmt.Errorf("%s: that is no UUID", s)
		}
	}
	raw, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = raw.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	value, err := s.fetch(libvirt.NewWithDialer(dialers.NewAlreadyConnected(raw)))
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: libvirt did not answer in time", key.ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	defer secret.Wipe(value)
	if len(value) == 0 {
		return nil, fmt.Errorf("%s: it is empty", s)
	}
	if s.Usage == Ceph {
		return encodeKey(value)
	}
	return secret.Copy(value)
}

// encodeKey makes the text that Ceph has for a key of libvirt's value, which are the key's bytes: "virsh secret-set-value"
// decodes what "ceph auth get-key" prints, and libvirt encodes it again for qemu.
func encodeKey(value []byte) (*secret.Bytes, error) {
	text, err := secret.New(base64.StdEncoding.EncodedLen(len(value)))
	if err == nil {
		base64.StdEncoding.Encode(text.Bytes(), value)
	}
	return text, err
}

func (s Source) fetch(c *libvirt.Libvirt) ([]byte, error) {
	if err := c.ConnectToURI(libvirt.ConnectURI(s.URI)); err != nil {
		return nil, fmt.Errorf("%w: connecting to %s: %w", key.ErrUnavailable, s.URI, err)
	}
	defer func() { _ = c.Disconnect() }()
	found, err := s.lookup(c)
	if err != nil {
		return nil, s.explain(err)
	}
	value, err := c.SecretGetValue(found, 0)
	if err != nil {
		return nil, s.explain(err)
	}
	return value, nil
}

func (s Source) lookup(c *libvirt.Libvirt) (libvirt.Secret, error) {
	if s.UUID == "" {
		return c.SecretLookupByUsage(int32(s.Usage), s.UsageID)
	}
	var id libvirt.UUID
	b, err := hex.DecodeString(strings.ReplaceAll(s.UUID, "-", ""))
	if err != nil {
		return libvirt.Secret{}, err
	}
	copy(id[:], b)
	return c.SecretLookupByUUID(id)
}

// explain says what an error of libvirt means for the one who wants the secret.
func (s Source) explain(err error) error {
	var e libvirt.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%w: %w", key.ErrUnavailable, err)
	}
	switch libvirt.ErrorNumber(e.Code) {
	case libvirt.ErrInvalidSecret:
		return fmt.Errorf("it is private='yes', so libvirt gives it to its own qemu only: "+
			"define it with private='no', or give luksgate the passphrase another way: %w", err)
	case libvirt.ErrNoSecret:
		return fmt.Errorf("libvirt has no such secret, or it has no value (virsh secret-set-value): %w", err)
	case libvirt.ErrOperationDenied, libvirt.ErrAccessDenied:
		return fmt.Errorf("libvirt does not let this user read secrets: %w", err)
	default:
		return err
	}
}

func (s Source) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	var worst error
	for _, path := range s.Sockets {
		c, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			return c, nil
		}
		var no syscall.Errno
		if errors.As(err, &no) {
			err = no
		}
		if worst == nil || errors.Is(worst, fs.ErrNotExist) {
			worst = fmt.Errorf("libvirt's socket %s: %w", path, err)
		}
	}
	if errors.Is(worst, fs.ErrPermission) {
		return nil, fmt.Errorf("%s: %w; root and members of group libvirt may use it", s, worst)
	}
	return nil, fmt.Errorf("%s: %w: %w", s, key.ErrUnavailable, worst)
}
