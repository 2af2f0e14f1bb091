// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strconv"
)

// sizeBytes is the size of every export.
const sizeBytes = 256 << 20

// Names of servers, in both groups.
const (
	luksgate = "luksgate"
	beside   = "beside" // another build of luksgate
	nbdkit   = "nbdkit"
	qemu     = "qemu-nbd"
	goNBD    = "go-nbd"
	poll     = "poll" // luksgate, which looks at its sockets before it sleeps
	// ceiling is no server: it answers as fast as can be and keeps nothing. What the client does with it bounds all
	// ratios.
	ceiling = "ceiling"
)

// server is a program that can be started.
type server struct {
	name string
	// image is what it serves from: no file, the pattern itself, or the pattern encrypted.
	image imageKind
	argv  func(p place) []string
}

// imageKind is a kind of file.
type imageKind int

const (
	noImage imageKind = iota
	rawImage
	luks1Image
	luks2Image
)

// place is what a command line depends on.
type place struct {
	program string // of luksgate
	dir     string
	socket  string
	image   string
	key     string // file with the passphrase
}

var size = strconv.Itoa(sizeBytes)

var memoryServers = []server{
	{luksgate, noImage, exportMemory},
	{beside, noImage, exportMemory},
	{nbdkit, noImage, func(p place) []string { return []string{"nbdkit", "-f", "-U", p.socket, "memory", size} }},
	{qemu, rawImage, func(p place) []string {
		return []string{"qemu-nbd", "-t", "-f", "raw", "--cache=writeback", "-k", p.socket, p.image}
	}},
	{goNBD, noImage, func(p place) []string {
		return []string{filepath.Join(p.dir, "gonbdserver"), "-socket", p.socket, "-size", size}
	}},
	{ceiling, noImage, func(p place) []string {
		return []string{filepath.Join(p.dir, ceiling), "--socket", p.socket, "--size", size}
	}},
}

// nbdkit and qemu have no LUKS2.
var luksServers = []server{
	{luksgate, luks2Image, exportLUKS},
	{beside, luks2Image, exportLUKS},
	{nbdkit, luks1Image, func(p place) []string {
		return []string{"nbdkit", "-f", "-U", p.socket, "--filter=luks", "file", p.image, "passphrase=+" + p.key}
	}},
	{qemu, luks1Image, func(p place) []string {
		return []string{"qemu-nbd", "-t", "--cache=writeback", "-k", p.socket, "--object", "secret,id=k,file=" + p.key,
			"--image-opts", "driver=luks,key-secret=k,file.driver=file,file.filename=" + p.image}
	}},
}

var pollingServers = []server{
	{luksgate, noImage, exportCrowd},
	{poll, noImage, func(p place) []string { return append(exportCrowd(p), "--poll", "50us") }},
	{beside, noImage, exportCrowd},
}

// exportCrowd is for many clients.
func exportCrowd(p place) []string { return append(exportMemory(p), "--connections-per-export", "256") }

func exportMemory(p place) []string {
	return []string{p.program, "export", "mem:" + size, "--socket", p.socket}
}

func exportLUKS(p place) []string {
	return []string{p.program, "export", "file:" + p.image, "--key-file", p.key, "--socket", p.socket}
}
