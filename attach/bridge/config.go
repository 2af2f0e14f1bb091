// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Config is the part of the gateway's configuration that the bridge writes and reads.
type Config struct {
	Exports []Export `yaml:"exports"`
}

// An Export is one image that the gateway serves.
type Export struct {
	// Name is the name of the NBD export.
	Name string `yaml:"name"`
	// Image is rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT].
	Image string `yaml:"image"`
	// Socket is the absolute path of the unix socket that the export is on.
	Socket   string `yaml:"socket"`
	ReadOnly bool   `yaml:"read_only,omitempty"`
	Ceph     Ceph   `yaml:"ceph,omitempty"`
	// Keys open the image and its encrypted ancestors, child first, as `rbd --encryption-passphrase-file` wants them.
	Keys []Key `yaml:"keys"`
	// Key is another way to write one key. ParseConfig and ParseExports put it into Keys.
	Key *Key `yaml:"key,omitempty"`
	// Libvirt is for the way back only; the gateway does not read it.
	Libvirt *Origin `yaml:"libvirt,omitempty"`
}

// Ceph says how to reach the cluster. What is not given comes from the gateway's own ceph.conf.
type Ceph struct {
	// User is the ceph user without "client.".
	User string `yaml:"user,omitempty"`
	// Key is where the user's key is.
	Key *Key `yaml:"key,omitempty"`
	// Conf is the cluster's configuration file.
	Conf string `yaml:"conf,omitempty"`
	// MonHosts are monitors, HOST or HOST:PORT, IPv6 addresses in brackets.
	MonHosts []string `yaml:"mon_hosts,omitempty"`
}

// A Key says where a secret is. It never holds one.
type Key struct {
	// LibvirtSecret is a secret of libvirt.
	LibvirtSecret *SecretRef `yaml:"libvirt_secret,omitempty"`
	// File is a file with the passphrase. ToLibrbd cannot use it.
	File string `yaml:"file,omitempty"`
}

// A SecretRef names a secret of libvirt: exactly one field is set.
type SecretRef struct {
	UUID  string `yaml:"uuid,omitempty"`
	Usage string `yaml:"usage,omitempty"`
}

// An Origin is what the way back needs to know about an export.
type Origin struct {
	// Domain is the name of the domain and Target the disk in it.
	Domain string `yaml:"domain"`
	Target string `yaml:"target"`
	// Format is luks, luks2 or luks-any; Engine is librbd or qemu.
	Format string `yaml:"format"`
	Engine string `yaml:"engine"`
	// LibrbdDisk and GatewayDisk are the <disk> element on either side, as it was when the disk was moved last.
	LibrbdDisk  string `yaml:"librbd_disk,omitempty"`
	GatewayDisk string `yaml:"gateway_disk,omitempty"`
}

// With returns c with the exports of other in the place of those that have the same name, or after all others.
func (c Config) With(other Config) Config {
	merged := Config{Exports: slices.Clone(c.Exports)}
	for _, e := range other.Exports {
		if i := slices.IndexFunc(merged.Exports, func(old Export) bool { return old.Name == e.Name }); i >= 0 {
			merged.Exports[i] = e
		} else {
			merged.Exports = append(merged.Exports, e)
		}
	}
	return merged
}

// MaxConfigBytes bounds what ParseConfig reads.
const MaxConfigBytes = 16 << 20

// YAML returns c as a document that ParseConfig reads.
func (c Config) YAML() ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(c); err != nil {
		return nil, fmt.Errorf("bridge: configuration: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("bridge: configuration: %w", err)
	}
	return out.Bytes(), nil
}

// ParseConfig reads what YAML wrote. Keys that it does not know are refused, with their line.
func ParseConfig(text []byte) (Config, error) {
	if len(text) > MaxConfigBytes {
		return Config{}, fmt.Errorf("bridge: configuration of %d bytes, at most %d are read", len(text), MaxConfigBytes)
	}
	var c Config
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, fmt.Errorf("bridge: configuration: %w", err)
	}
	return c, c.normalize()
}

// ParseExports reads the exports of a whole luksgate.conf, which has more than YAML can write: complete says that it has not.
func ParseExports(text []byte) (c Config, complete bool, err error) {
	strict, strictErr := ParseConfig(text)
	if strictErr == nil {
		return strict, true, nil
	}
	if len(text) > MaxConfigBytes {
		return Config{}, false, strictErr
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		return Config{}, false, fmt.Errorf("bridge: configuration: %w", err)
	}
	anonymous := func(e Export) bool { return e.Name == "" || e.Image == "" }
	if len(c.Exports) == 0 || slices.ContainsFunc(c.Exports, anonymous) {
		return Config{}, false, strictErr // it is none: what is wrong with it says more
	}
	return c, false, c.normalize()
}

// normalize leaves one way to write keys.
func (c *Config) normalize() error {
	for i := range c.Exports {
		e := &c.Exports[i]
		if e.Key == nil {
			continue
		}
		if len(e.Keys) > 0 {
			return fmt.Errorf("bridge: configuration: export %s has both key and keys", e.Name)
		}
		e.Keys, e.Key = []Key{*e.Key}, nil
	}
	return nil
}
