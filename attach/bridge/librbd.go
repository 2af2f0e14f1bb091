// SPDX-License-Identifier: Apache-2.0

package bridge

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/attach/xmlspan"
)

// LibrbdOptions steer ToLibrbd. The words before a colon are the command line flag.
type LibrbdOptions struct {
	// Targets are the disks to move (--target, several times); default all that the configuration exports.
	Targets []string
	// Format is luks, luks2 or luks-any (--format), for exports whose configuration does not say it.
	Format string
}

// ToLibrbd moves disks of the gateway back to librbd. The configuration of the result has the exports of these disks, with
// both forms of the disk, for another ToGateway. Errors are as those of ToGateway.
func ToLibrbd(doc []byte, config Config, opts LibrbdOptions) (Result, error) {
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
	for _, entry := range disks {
		export, found, err := findExport(entry, config)
		if err != nil {
			return Result{}, err
		}
		if !found {
			if len(opts.Targets) > 0 {
				return Result{}, entry.errorf(entry.element, "no export of the configuration is its source")
			}
			continue
		}
		export, err = d.toLibrbd(entry, export, opts)
		if err != nil {
			return Result{}, err
		}
		result.Config.Exports = append(result.Config.Exports, export)
		edits = append(edits, xmlspan.Edit{Start: entry.element.Start, End: entry.element.End, Text: export.Libvirt.LibrbdDisk})
	}
	if len(edits) == 0 {
		return Result{}, ErrNothing
	}
	result.Domain = xmlspan.Apply(doc, edits)
	return result, nil
}

// nbdURI returns where a disk's export is, if it is an NBD disk.
func nbdURI(d *disk) (attach.URI, bool) {
	source := d.element.First("source")
	if source == nil || d.element.Get("type") != "network" || source.Get("protocol") != "nbd" {
		return attach.URI{}, false
	}
	uri := attach.URI{Export: source.Get("name"), TLS: source.Get("tls") == "yes"}
	for _, host := range source.All("host") {
		uri.Socket, uri.Host = host.Get("socket"), host.Get("name")
		uri.Port, _ = strconv.Atoi(host.Get("port"))
	}
	return uri, true
}

func findExport(entry *disk, config Config) (Export, bool, error) {
	uri, ok := nbdURI(entry)
	if !ok {
		return Export{}, false, nil
	}
	var found []Export
	for _, e := range config.Exports {
		if uri == (attach.URI{Socket: e.Socket, Export: e.Name}) {
			found = append(found, e)
		}
	}
	if len(found) > 1 {
		return Export{}, false, entry.errorf(entry.element, "the configuration has %d exports %s at %s", len(found), uri.Export, uri.Socket)
	}
	if len(found) == 0 {
		return Export{}, false, nil
	}
	return found[0], true, nil
}

func (d *domain) toLibrbd(entry *disk, export Export, opts LibrbdOptions) (Export, error) {
	text := d.text(entry.element)
	origin := Origin{Engine: "librbd", Format: opts.Format}
	if export.Libvirt != nil {
		origin = *export.Libvirt
	}
	same := origin.GatewayDisk == text && origin.LibrbdDisk != ""
	origin.Domain, origin.Target, origin.GatewayDisk = d.name, entry.target, text
	export.Libvirt = &origin
	if same && d.reads(origin.LibrbdDisk, export) {
		return export, nil
	}
	if origin.Format == "" {
		return Export{}, entry.errorf(entry.element, "export %s does not say whether the image is luks or luks2: give --format",
			export.Name)
	}
	if err := checkImage(export.Image); err != nil {
		return Export{}, entry.errorf(entry.element, "export %s: %w", export.Name, err)
	}
	source, err := librbdSource(export)
	if err != nil {
		return Export{}, entry.errorf(entry.element, "export %s: %w", export.Name, err)
	}
	origin.LibrbdDisk, err = replaceSource(text, source)
	if err == nil && !d.reads(origin.LibrbdDisk, export) {
		err = entry.errorf(entry.element, "export %s: its values do not fit into libvirt's XML", export.Name)
	}
	return export, err
}

// reads says whether a librbd <disk> means the same image, user and keys as an export.
func (d *domain) reads(text string, export Export) bool {
	root, err := xmlspan.Parse([]byte(text))
	if err != nil || root.Name != "disk" || root.Space != "" {
		return false
	}
	got, err := readLibrbdDisk(&disk{element: root})
	return err == nil && sameExport(got, export)
}

// sameExport compares what a librbd <disk> says. ReadOnly is the disk's own element.
func sameExport(a, b Export) bool {
	return a.Image == b.Image && a.Ceph.User == b.Ceph.User && a.Ceph.Conf == b.Ceph.Conf &&
		strings.Join(a.Ceph.MonHosts, " ") == strings.Join(b.Ceph.MonHosts, " ") &&
		describe(a.Ceph.Key) == describe(b.Ceph.Key) && describeAll(a.Keys) == describeAll(b.Keys) &&
		a.Libvirt.Format == b.Libvirt.Format && a.Libvirt.Engine == b.Libvirt.Engine
}

func describe(k *Key) string {
	if k == nil {
		return ""
	}
	if k.LibvirtSecret == nil {
		return fmt.Sprintf("file %q", k.File)
	}
	return fmt.Sprintf("secret %q %q", k.LibvirtSecret.UUID, k.LibvirtSecret.Usage)
}

func describeAll(keys []Key) string {
	var out strings.Builder
	for i := range keys {
		out.WriteString(describe(&keys[i]) + "\n")
	}
	return out.String()
}

func checkImage(image string) error {
	path, ok := strings.CutPrefix(image, "rbd:")
	if !ok {
		return fmt.Errorf("image %s is not in RBD", image)
	}
	path, _, _ = strings.Cut(path, "@")
	if n := strings.Count(path, "/"); n < 1 || n > 2 {
		return fmt.Errorf("image %s: expected rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT]", image)
	}
	return nil
}
