// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/attach/xmlspan"
)

// DefaultSocketDir is where the sockets of exports are.
const DefaultSocketDir = "/run/luksgate"

// GatewayOptions steer ToGateway. The words before a colon are the command line flag.
type GatewayOptions struct {
	// Targets are the disks to move (--target, several times); default all that have RBD with encryption.
	Targets []string
	// SocketDir is where the gateway's sockets are (--socket-dir); default DefaultSocketDir.
	SocketDir string
	// Existing is the configuration that the gateway has: disks whose image it exports use that export (--config).
	Existing Config
	// Libvirt and Qemu are the versions of the host that the domain goes to (--libvirt, --qemu); default 6.0, 4.2.
	Libvirt, Qemu attach.Version
}

// A Result is a domain with disks moved.
type Result struct {
	// Domain is the whole document.
	Domain []byte
	// Config has one export for each disk that was moved, in the order of the document.
	Config Config
	// Notes say what a user should know about these disks.
	Notes []Note
}

// ErrNothing means that the domain has no disk that could be moved.
var ErrNothing = errors.New("bridge: no disk to move")

// ToGateway moves disks with librbd's or qemu's LUKS encryption on RBD to the gateway. Errors about the document are an
// *Error or an *xmlspan.Error, which know the line; ErrNothing if there is nothing to do.
func ToGateway(doc []byte, opts GatewayOptions) (Result, error) {
	d, err := parseDomain(doc)
	if err != nil {
		return Result{}, err
	}
	disks, err := d.selected(opts.Targets)
	if err != nil {
		return Result{}, err
	}
	var result Result
	var edits []xmlspan.Edit
	byImage := map[string]*disk{}
	for _, entry := range disks {
		if len(opts.Targets) == 0 && !hasLibrbdEncryption(entry) {
			continue
		}
		if other := byImage[imageOf(entry)]; other != nil {
			return Result{}, entry.errorf(entry.element, "the disk on line %d has the same image", other.element.Line)
		}
		byImage[imageOf(entry)] = entry
		export, notes, err := d.toGateway(entry, opts, result.Config)
		if err != nil {
			return Result{}, err
		}
		result.Config.Exports = append(result.Config.Exports, export)
		result.Notes = append(result.Notes, notes...)
		edits = append(edits, xmlspan.Edit{Start: entry.element.Start, End: entry.element.End, Text: export.Libvirt.GatewayDisk})
	}
	if len(edits) == 0 {
		return Result{}, ErrNothing
	}
	result.Domain = xmlspan.Apply(doc, edits)
	return result, nil
}

// hasLibrbdEncryption says whether a disk is one of those that are moved if none are named.
func hasLibrbdEncryption(d *disk) bool {
	source := d.element.First("source")
	return source != nil && d.element.Get("type") == "network" && source.Get("protocol") == "rbd" &&
		(source.First("encryption") != nil || d.element.First("encryption") != nil)
}

// imageOf is what two disks must not have in common.
func imageOf(d *disk) string {
	source := d.element.First("source")
	if source == nil {
		return fmt.Sprintf("line %d", d.element.Line)
	}
	image := source.Get("protocol") + ":" + source.Get("name")
	if snapshot := source.First("snapshot"); snapshot != nil {
		image += "@" + snapshot.Get("name")
	}
	return image
}

func (d *domain) toGateway(entry *disk, opts GatewayOptions, sofar Config) (Export, []Note, error) {
	if source := entry.element.First("source"); source != nil && source.Get("protocol") == "nbd" {
		return Export{}, nil, entry.errorf(source, "is an NBD disk already")
	}
	export, err := readLibrbdDisk(entry)
	if err != nil {
		return Export{}, nil, err
	}
	if entry.target == "" {
		return Export{}, nil, entry.errorf(entry.element, "no <target dev=...>")
	}
	export.Libvirt.Domain = d.name
	known := slices.IndexFunc(opts.Existing.Exports, func(e Export) bool { return e.Image == export.Image })
	text := d.text(entry.element)
	export.Libvirt.LibrbdDisk = text
	if known >= 0 {
		old := opts.Existing.Exports[known]
		export.Name, export.Socket = old.Name, old.Socket
		if old.Libvirt != nil && old.Libvirt.LibrbdDisk == text && old.Libvirt.GatewayDisk != "" && servedBy(old) {
			export.Libvirt.GatewayDisk = old.Libvirt.GatewayDisk
			return export, nil, nil
		}
	} else if err := d.nameExport(entry, &export, opts, sofar); err != nil {
		return Export{}, nil, err
	}
	uri := attach.URI{Socket: export.Socket, Export: export.Name}
	if err := uri.Check(); err != nil {
		return Export{}, nil, entry.errorf(entry.element, "export: %w", err)
	}
	gatewayDisk, notes, err := rewriteForGateway(entry, text, uri, opts)
	export.Libvirt.GatewayDisk = gatewayDisk
	return export, notes, err
}

// servedBy says whether the gateway's <disk> that an export remembers still names that export.
func servedBy(e Export) bool {
	root, err := xmlspan.Parse([]byte(e.Libvirt.GatewayDisk))
	if err != nil || root.Name != "disk" {
		return false
	}
	uri, ok := nbdURI(&disk{element: root})
	return ok && uri == attach.URI{Socket: e.Socket, Export: e.Name}
}

// nameExport makes up a name that is the same whenever the same disk is moved.
func (d *domain) nameExport(entry *disk, export *Export, opts GatewayOptions, sofar Config) error {
	dir := opts.SocketDir
	if dir == "" {
		dir = DefaultSocketDir
	}
	name := ExportName(d.name, d.uuid, entry.target)
	for _, other := range append(slices.Clone(opts.Existing.Exports), sofar.Exports...) {
		if other.Name == name {
			return entry.errorf(entry.element, "there is an export %s already, of %s", name, other.Image)
		}
	}
	export.Name = name
	export.Socket = filepath.Join(dir, name+".sock")
	return nil
}

// ExportName is the name of the export for a disk of a domain: DOMAIN-TARGET, if that is short and plain enough.
func ExportName(domain, uuid, target string) string {
	name := plainName(domain + "-" + target)
	if name != domain+"-"+target {
		sum := sha256.Sum256([]byte(domain + "\x00" + uuid + "\x00" + target))
		name += "-" + hex.EncodeToString(sum[:4])
	}
	return name
}

// plainName keeps what is safe in a file name, a URI and a metric, and at most 48 bytes of it.
func plainName(s string) string {
	var out strings.Builder
	for _, r := range s {
		plain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' ||
			r == '.' && out.Len() > 0
		if !plain {
			r = '_'
		}
		if out.Len() < 48 {
			out.WriteRune(r)
		}
	}
	return out.String()
}
