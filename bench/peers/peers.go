// SPDX-License-Identifier: Apache-2.0

// Package peers are other programs that are measured beside luksgate where they are installed. `luksgate bench` starts
// them with --peers only.
package peers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/lab"
	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/scratch"
	"github.com/luksgate/luksgate/gateway/image"
)

// Descriptors of a server that is started: the passphrase, and the image where that is memory.
const (
	keyFD   = 3
	imageFD = keyFD + 1
)

// secretObject gives qemu's programs the passphrase.
var secretObject = "secret,id=k,file=" + scratch.FDPath(keyFD)

// A server is a program that serves one image on a unix socket.
type server struct {
	name, text, program string
	schemes             []image.Scheme
	// plain serves the raw image from where its data begin; luks1 can open LUKS1 only.
	plain, luks1 bool
	// empty needs no image: it has memory of its own, which is filled over NBD.
	empty bool
	// export is the name of its export.
	export string
	argv   func(p place) []string
}

// A place is what a command line names.
type place struct {
	setup  *lab.Setup
	img    *scratch.Image
	path   string // of a file
	socket string
}

// offset is where the data of the raw image begin.
func (p place) offset() string { return strconv.FormatInt(p.img.DataOffsetBytes, 10) }

// rbd is the image for qemu.
func (p place) rbd() string {
	ref := p.img.Ref
	s := fmt.Sprintf("driver=rbd,pool=%s,image=%s", ref.Pool, ref.Image)
	if ref.Namespace != "" {
		s += ",namespace=" + ref.Namespace
	}
	if conf := p.setup.Ceph.ConfFile; conf != "" {
		s += ",conf=" + conf
	}
	if user := strings.TrimPrefix(p.setup.Ceph.User, "client."); user != "" {
		s += ",user=" + user
	}
	return s + fmt.Sprintf(",encrypt.format=luks%d,encrypt.key-secret=k", max(p.setup.Version, 1))
}

var (
	onRBD    = []image.Scheme{image.RBD}
	onFile   = []image.Scheme{image.File}
	onMem    = []image.Scheme{image.Mem}
	inMemory = []image.Scheme{image.File, image.Mem}
)

var servers = []server{
	{name: "qemu-nbd", text: "qemu-nbd with librbd's engine", program: "qemu-nbd", schemes: onRBD, export: "x",
		argv: func(p place) []string {
			return []string{"-t", "-e", "64", "-x", "x", "-k", p.socket, "--cache=none", "--object", secretObject, "--image-opts", p.rbd()}
		}},
	{name: "qemu-sd", text: "qemu-storage-daemon with librbd's engine", program: "qemu-storage-daemon", schemes: onRBD, export: "x",
		argv: func(p place) []string {
			return []string{"--object", secretObject, "--blockdev", p.rbd() + ",node-name=d,cache.direct=on",
				"--nbd-server", "addr.type=unix,addr.path=" + p.socket, "--export", "type=nbd,id=e,node-name=d,name=x,writable=on"}
		}},
	{name: "qemu-nbd", text: "qemu-nbd on the raw image, nothing encrypted", program: "qemu-nbd", schemes: inMemory, plain: true, export: "x",
		argv: func(p place) []string {
			return []string{"-t", "-e", "64", "-x", "x", "-k", p.socket, "--cache=writeback", "--image-opts",
				"driver=raw,offset=" + p.offset() + ",file.driver=file,file.filename=" + p.path}
		}},
	{name: "qemu-nbd-luks", text: "qemu-nbd with qemu's own LUKS1", program: "qemu-nbd", schemes: inMemory, luks1: true, export: "x",
		argv: func(p place) []string {
			return []string{"-t", "-e", "64", "-x", "x", "-k", p.socket, "--cache=writeback", "--object", secretObject, "--image-opts",
				"driver=luks,key-secret=k,file.driver=file,file.filename=" + p.path}
		}},
	{name: "nbdkit-memory", text: "nbdkit's memory plugin, nothing encrypted", program: "nbdkit", schemes: onMem, plain: true, empty: true,
		argv: func(p place) []string {
			return []string{"-f", "-U", p.socket, "memory", "size=" + strconv.FormatInt(p.setup.SizeBytes, 10), "allocator=malloc"}
		}},
	{name: "nbdkit-file", text: "nbdkit's file plugin on the raw image, nothing encrypted", program: "nbdkit", schemes: onFile, plain: true,
		argv: func(p place) []string {
			return []string{"-f", "-U", p.socket, "--filter=offset", "file", p.path, "offset=" + p.offset()}
		}},
	{name: "nbdkit-luks", text: "nbdkit's file plugin and LUKS1 filter", program: "nbdkit", schemes: onFile, luks1: true,
		argv: func(p place) []string {
			return []string{"-f", "-U", p.socket, "--filter=luks", "file", p.path, "passphrase=-" + strconv.Itoa(keyFD)}
		}},
	{name: "go-nbd", text: "go-nbd's server on memory, nothing encrypted (bench/nbd/gonbdserver)", program: "gonbdserver", schemes: onMem,
		plain: true, empty: true,
		argv: func(p place) []string {
			return []string{"-socket", p.socket, "-size", strconv.FormatInt(p.setup.SizeBytes, 10)}
		}},
}

// For are the programs that can be measured on images of a scheme.
func For(scheme image.Scheme) []lab.Peer {
	var all []lab.Peer
	for _, s := range servers {
		if slices.Contains(s.schemes, scheme) {
			all = append(all, s)
		}
	}
	if scheme == image.RBD {
		all = append(all, fioRBD{})
	}
	return all
}

// Name implements lab.Peer.
func (s server) Name() string { return s.name }

// Start implements lab.Peer: it starts one process for each image.
func (s server) Start(ctx context.Context, setup *lab.Setup) (engine.Contestant, error) {
	if _, err := exec.LookPath(s.program); err != nil {
		return nil, fmt.Errorf("%w: there is no %s here", lab.ErrAbsent, s.program)
	}
	if s.luks1 && setup.Version != 1 {
		return nil, fmt.Errorf("%w: it reads LUKS1 only, which --luks 1 makes", lab.ErrAbsent)
	}
	var images []*scratch.Image
	if s.empty {
		images = make([]*scratch.Image, setup.Images)
	} else {
		var err error
		if images, err = setup.NewImages(ctx); err != nil {
			return nil, err
		}
	}
	c := &engine.OverNBD{What: result.Contestant{Name: s.name, Text: s.text}, SizeBytes: setup.SizeBytes}
	if !s.plain || setup.Against == lab.Plain {
		c.What.Reference = setup.Reference(true)
	}
	var running processes
	c.Closer = running.stop
	for i, img := range images {
		if err := s.startOne(ctx, setup, c, &running, i, img); err != nil {
			return nil, fmt.Errorf("%w: %w", lab.ErrAbsent, joinStop(err, &running))
		}
	}
	return c, nil
}

// startOne starts the process of image number i.
func (s server) startOne(ctx context.Context, setup *lab.Setup, c *engine.OverNBD, running *processes, i int, img *scratch.Image) error {
	p := place{setup: setup, img: img, socket: fmt.Sprintf("%s/%s-%d", setup.Dir, s.name, i)}
	var files []*os.File
	if img != nil {
		p.path = img.Ref.Path
		if img.File != nil {
			p.path, files = scratch.FDPath(imageFD), []*os.File{img.File}
		}
	}
	process, err := start(ctx, append([]string{s.program}, s.argv(p)...), p.socket, setup.Maker.Key, files)
	if err != nil {
		return err
	}
	running.list = append(running.list, process)
	at := engine.Endpoint{Network: "unix", Address: p.socket, Export: s.export}
	if err := process.ready(ctx, at); err != nil {
		return err
	}
	c.Endpoints = append(c.Endpoints, at)
	c.Servers = append(c.Servers, engine.Process{Name: "server", PID: process.cmd.Process.Pid})
	if s.empty {
		return fill(ctx, at, setup.SizeBytes, setup.Seed+uint64(i))
	}
	return nil
}
