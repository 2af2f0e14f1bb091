// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/luksgate/luksgate/attach/xmlspan"
)

var uuidText = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// readLibrbdDisk reads the RBD image, the ceph user and the encryption of a disk. Name, Socket and the texts of Libvirt
// are left to the caller. What it does not understand it refuses, because it would be lost on the way.
func readLibrbdDisk(d *disk) (Export, error) {
	source := d.element.First("source")
	if source == nil {
		return Export{}, d.errorf(d.element, "no <source>")
	}
	if protocol := source.Get("protocol"); d.element.Get("type") != "network" || protocol != "rbd" {
		return Export{}, d.errorf(source, "type %q with protocol %q is not an RBD image", d.element.Get("type"), protocol)
	}
	if err := checkDiskShape(d, source); err != nil {
		return Export{}, err
	}
	export := Export{ReadOnly: d.element.First("readonly") != nil}
	if err := readImage(d, source, &export); err != nil {
		return Export{}, err
	}
	if err := readCeph(d, source, &export.Ceph); err != nil {
		return Export{}, err
	}
	origin, err := readEncryption(d, source, &export)
	export.Libvirt = origin
	return export, err
}

// checkDiskShape refuses disks that cannot be moved for reasons other than their source.
func checkDiskShape(d *disk, source *xmlspan.Element) error {
	if device := d.element.Get("device"); device != "" && device != "disk" && device != "cdrom" {
		return d.errorf(d.element, "device %q cannot be an NBD disk", device)
	}
	if e := d.element.First("mirror"); e != nil {
		return d.errorf(e, "a block job is under way (<mirror>): finish it first")
	}
	if e := d.element.First("backingStore"); e != nil && len(e.Children) > 0 {
		return d.errorf(e, "a chain of files in <backingStore> cannot be moved")
	}
	if driver := d.element.First("driver"); driver != nil {
		if format, ok := driver.Attr("type"); ok && format != "raw" {
			return d.errorf(driver, "format %q inside RBD cannot be moved, only raw", format)
		}
	}
	for _, name := range []string{"source", "driver", "auth", "encryption", "target"} {
		if all := d.element.All(name); len(all) > 1 {
			return d.errorf(all[1], "second <%s>", name)
		}
	}
	return knownChildren(d, source, "host", "snapshot", "config", "auth", "encryption")
}

// knownChildren refuses children that would be lost, and children that may be there once only and are there twice.
func knownChildren(d *disk, parent *xmlspan.Element, names ...string) error {
	seen := map[string]bool{}
children:
	for _, c := range parent.Children {
		for _, name := range names {
			if c.Space != "" || c.Name != name {
				continue
			}
			if seen[name] && name != "host" && name != "secret" {
				return d.errorf(c, "second <%s> in <%s>", name, parent.Name)
			}
			seen[name] = true
			continue children
		}
		return d.errorf(c, "<%s> in <%s> is not understood, and would be lost", c.Name, parent.Name)
	}
	return nil
}

func readImage(d *disk, source *xmlspan.Element, export *Export) error {
	name := source.Get("name")
	parts := strings.Split(name, "/")
	if len(parts) < 2 || len(parts) > 3 {
		return d.errorf(source, "name %q: expected POOL/IMAGE or POOL/NAMESPACE/IMAGE", name)
	}
	for _, part := range parts {
		if part == "" || strings.ContainsAny(part, "@") {
			return d.errorf(source, "name %q: empty parts and @ are not supported (a snapshot goes into <snapshot name=...>)", name)
		}
	}
	export.Image = "rbd:" + name
	if e := source.First("snapshot"); e != nil {
		snapshot := e.Get("name")
		if snapshot == "" || strings.ContainsAny(snapshot, "/@") {
			return d.errorf(e, "snapshot name %q: expected one without / and @", snapshot)
		}
		export.Image += "@" + snapshot
		export.ReadOnly = true
	}
	return nil
}

func readCeph(d *disk, source *xmlspan.Element, ceph *Ceph) error {
	for _, host := range source.All("host") {
		name, port := host.Get("name"), host.Get("port")
		if transport := host.Get("transport"); transport != "" && transport != "tcp" || name == "" {
			return d.errorf(host, "expected a monitor's name and port")
		}
		if strings.ContainsAny(name, "[] \t\r\n,;") {
			return d.errorf(host, "monitor %q: expected a host name or an IP address", name)
		}
		if port == "" {
			if strings.Contains(name, ":") {
				name = "[" + name + "]"
			}
			ceph.MonHosts = append(ceph.MonHosts, name)
			continue
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
			return d.errorf(host, "port %q: expected 1 to 65535", port)
		}
		ceph.MonHosts = append(ceph.MonHosts, net.JoinHostPort(name, port))
	}
	if e := source.First("config"); e != nil {
		if ceph.Conf = e.Get("file"); !strings.HasPrefix(ceph.Conf, "/") {
			return d.errorf(e, "file %q: expected an absolute path", ceph.Conf)
		}
	}
	auth, err := either(d, source, "auth")
	if auth == nil || err != nil {
		return err
	}
	if ceph.User = auth.Get("username"); ceph.User == "" {
		return d.errorf(auth, "no username")
	}
	if err := knownChildren(d, auth, "secret"); err != nil {
		return err
	}
	secrets := auth.All("secret")
	if len(secrets) != 1 {
		return d.errorf(auth, "expected one <secret>")
	}
	ceph.Key, err = readSecret(d, secrets[0], "ceph")
	return err
}

// either returns the element that libvirt takes inside <source> or beside it.
func either(d *disk, source *xmlspan.Element, name string) (*xmlspan.Element, error) {
	inside, beside := source.First(name), d.element.First(name)
	if inside != nil && beside != nil {
		return nil, d.errorf(beside, "<%s> is inside <source> (line %d) and beside it", name, inside.Line)
	}
	if inside != nil {
		return inside, nil
	}
	return beside, nil
}

func readSecret(d *disk, secret *xmlspan.Element, kind string) (*Key, error) {
	if got := secret.Get("type"); got != kind {
		return nil, d.errorf(secret, "secret of type %q, expected %q", got, kind)
	}
	uuid, hasUUID := secret.Attr("uuid")
	usage, hasUsage := secret.Attr("usage")
	switch {
	case hasUUID == hasUsage:
		return nil, d.errorf(secret, "secret: expected either uuid or usage")
	case hasUUID && !uuidText.MatchString(uuid):
		return nil, d.errorf(secret, "secret: %q is not a UUID", uuid)
	case hasUsage && usage == "":
		return nil, d.errorf(secret, "secret: empty usage")
	}
	return &Key{LibvirtSecret: &SecretRef{UUID: uuid, Usage: usage}}, nil
}

func readEncryption(d *disk, source *xmlspan.Element, export *Export) (*Origin, error) {
	encryption, err := either(d, source, "encryption")
	if err != nil {
		return nil, err
	}
	if encryption == nil {
		return nil, d.errorf(source, "no <encryption>: qemu opens it without the gateway")
	}
	origin := &Origin{Target: d.target, Format: encryption.Get("format"), Engine: encryption.Get("engine")}
	if origin.Engine == "" {
		origin.Engine = "qemu"
	}
	secrets := encryption.All("secret")
	switch {
	case origin.Engine != "qemu" && origin.Engine != "librbd":
		return nil, d.errorf(encryption, "engine %q: expected librbd or qemu", origin.Engine)
	case origin.Engine == "qemu" && origin.Format != "luks",
		origin.Format != "luks" && origin.Format != "luks2" && origin.Format != "luks-any":
		return nil, d.errorf(encryption, "format %q of engine %s cannot be moved: expected luks, or with librbd luks2 or luks-any",
			origin.Format, origin.Engine)
	case len(secrets) == 0:
		return nil, d.errorf(encryption, "no <secret>: the gateway needs the passphrase")
	case len(secrets) > 1 && origin.Engine == "qemu":
		return nil, d.errorf(secrets[1], "engine qemu knows no layers, expected one <secret>")
	case len(secrets) > maxLayers:
		return nil, d.errorf(secrets[maxLayers], "more than %d layers", maxLayers)
	}
	if err := knownChildren(d, encryption, "secret", "cipher", "ivgen"); err != nil {
		return nil, err
	}
	for _, secret := range secrets {
		key, err := readSecret(d, secret, "passphrase")
		if err != nil {
			return nil, err
		}
		export.Keys = append(export.Keys, *key)
	}
	return origin, nil
}

// maxLayers is the length of the longest chain of clones that librbd opens.
const maxLayers = 16
