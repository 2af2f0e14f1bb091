// SPDX-License-Identifier: Apache-2.0

// Package bridge moves the disks of a libvirt domain between librbd's encryption and the gateway, both ways.
//
// ToGateway turns disks that qemu opens through librbd into NBD disks and says what the gateway must export for them;
// ToLibrbd turns them back. Only the bytes of those <disk> elements change. One after the other gives the document that
// there was at first, byte for byte, as long as nobody changed the disks in between; after a change (libvirt writes
// attributes anew, or a disk got an address) only the source, the authentication and the encryption are exchanged.
//
// Everything here is a pure function: no libvirt is asked and no file is read.
package bridge

import (
	"fmt"
	"strings"

	"github.com/luksgate/luksgate/attach/xmlspan"
)

// An Error names the place in a domain's XML that is wrong.
type Error struct {
	Line   int    // in the document, from 1
	Target string // the disk's target, "" if it is not about one disk
	Err    error
}

func (e *Error) Error() string {
	if e.Target == "" {
		return fmt.Sprintf("bridge: line %d: %v", e.Line, e.Err)
	}
	return fmt.Sprintf("bridge: line %d: disk %s: %v", e.Line, e.Target, e.Err)
}

// Unwrap returns what is wrong without the place.
func (e *Error) Unwrap() error { return e.Err }

// A Note is something that the user should know about a disk that was moved.
type Note struct {
	Line   int
	Target string
	Text   string
}

func (n Note) String() string { return fmt.Sprintf("line %d: disk %s: %s", n.Line, n.Target, n.Text) }

// A domain is a parsed document.
type domain struct {
	doc        []byte
	name, uuid string
	disks      []*disk
}

// A disk is a <disk> element of a domain.
type disk struct {
	element *xmlspan.Element
	target  string
}

func (d *disk) errorf(at *xmlspan.Element, format string, args ...any) error {
	return &Error{Line: at.Line, Target: d.target, Err: fmt.Errorf(format, args...)}
}

func (d *domain) text(e *xmlspan.Element) string { return string(d.doc[e.Start:e.End]) }

func parseDomain(doc []byte) (*domain, error) {
	root, err := xmlspan.Parse(doc)
	if err != nil {
		return nil, fmt.Errorf("bridge: %w", err)
	}
	if root.Name != "domain" || root.Space != "" {
		return nil, &Error{Line: root.Line, Err: fmt.Errorf("root element is <%s>, expected <domain> as `virsh dumpxml` prints it",
			root.Name)}
	}
	d := &domain{doc: doc}
	if e := root.First("name"); e != nil {
		d.name = strings.TrimSpace(e.Text)
	}
	if e := root.First("uuid"); e != nil {
		d.uuid = strings.TrimSpace(e.Text)
	}
	if d.name == "" {
		return nil, &Error{Line: root.Line, Err: fmt.Errorf("domain without <name>")}
	}
	for _, devices := range root.All("devices") {
		for _, e := range devices.All("disk") {
			entry := &disk{element: e}
			if target := e.First("target"); target != nil {
				entry.target = target.Get("dev")
			}
			d.disks = append(d.disks, entry)
		}
	}
	return d, nil
}

// selected returns the disks that are meant: those of targets, or all if there are none. A target that is not there, or
// more than once, is an error.
func (d *domain) selected(targets []string) ([]*disk, error) {
	if len(targets) == 0 {
		return d.disks, nil
	}
	var found []*disk
	for _, target := range targets {
		var match *disk
		for _, candidate := range d.disks {
			if candidate.target != target {
				continue
			}
			if match != nil {
				return nil, candidate.errorf(candidate.element, "the disk on line %d has the same target", match.element.Line)
			}
			match = candidate
		}
		if match == nil {
			return nil, fmt.Errorf("bridge: domain %s has no disk %q, it has: %s", d.name, target, d.targets())
		}
		found = append(found, match)
	}
	return found, nil
}

func (d *domain) targets() string {
	if len(d.disks) == 0 {
		return "none"
	}
	names := make([]string, len(d.disks))
	for i, entry := range d.disks {
		names[i] = entry.target
	}
	return strings.Join(names, ", ")
}
