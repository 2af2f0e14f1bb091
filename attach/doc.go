// SPDX-License-Identifier: Apache-2.0

// Package attach writes what a host needs to use an export: libvirt disk and secret XML, qemu options, NBD URIs.
//
// Everything here is a pure function of its arguments: nothing is opened, asked or kept, so all of it may be called by
// any number of goroutines. What it prints is meant for libvirt 6.0 and qemu 4.2 (Ubuntu 20.04) unless newer versions
// are named, because those are the hosts that need luksgate. Attributes that these versions reject, ignore or are
// harmed by are refused with an error that names the option, never dropped silently.
package attach
