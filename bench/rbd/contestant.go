// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// contestant is somebody who can be asked to run a workload.
type contestant struct {
	name string
	run  func(w workload, d time.Duration) (sample, error)
}

// candidate is a contestant that may be absent.
type candidate struct {
	name      string
	encrypted bool // its image is
	program   string
	// One of them: a server's command line, or a contestant in one process.
	server func(image, socket string) []string
	run    func(image string, w workload, d time.Duration) (sample, error)
	// fallback is the command line for a server that does not survive its first client, with what it lacks.
	fallback func(image, socket string) []string
	lacks    string
}

func (l *lab) candidates() []candidate {
	qemuImage := func(image string) string {
		return fmt.Sprintf("driver=rbd,pool=%s,image=%s,conf=%s,encrypt.format=luks2,encrypt.key-secret=k", l.pool, image, l.conf)
	}
	secret := "secret,id=k,file=" + l.key
	ours := func(engine string) func(image, socket string) []string {
		return func(image, socket string) []string {
			return []string{l.luksgate, "export", "rbd:" + l.pool + "/" + image, "--key-file", l.key, "--name", "x",
				"--engine", engine, "--socket", socket}
		}
	}
	storage := func(thread string) func(image, socket string) []string {
		return func(image, socket string) []string {
			return []string{"qemu-storage-daemon", "--object", secret, "--object", "iothread,id=io",
				"--blockdev", qemuImage(image) + ",node-name=d,cache.direct=on", "--nbd-server", "addr.type=unix,addr.path=" + socket,
				"--export", "type=nbd,id=e,node-name=d,name=x,writable=on" + thread}
		}
	}
	return []candidate{
		{name: fioRBD, program: "fio", run: l.fioRBD},
		{name: loopPlain, run: l.loop("-")},
		{name: loopLibrbd, encrypted: true, run: l.loop(l.key)},
		{name: inNative, encrypted: true, run: l.native},
		{name: gateNative, encrypted: true, program: "fio", server: ours("native")},
		{name: gateLibrbd, encrypted: true, program: "fio", server: ours("librbd")},
		{name: qemuNBD, encrypted: true, program: "qemu-nbd", server: func(image, socket string) []string {
			return []string{"qemu-nbd", "-t", "-x", "x", "-k", socket, "--cache=none", "--object", secret, "--image-opts", qemuImage(image)}
		}},
		// Some releases (7.2.22) abort when a client of an export with an iothread leaves.
		{name: qemuStorage, encrypted: true, program: "qemu-storage-daemon", server: storage(",iothread=io"),
			fallback: storage(""), lacks: "an iothread"},
	}
}

// contestants starts everybody who is there and wanted, and says who is not.
func (l *lab) contestants(wanted string) ([]*contestant, error) {
	var list []*contestant
	for i, c := range l.candidates() {
		if wanted != "" && !strings.Contains(","+wanted+",", ","+c.name+",") {
			continue
		}
		if _, err := exec.LookPath(c.program); c.program != "" && err != nil {
			fmt.Printf("%s: not measured: there is no %s here\n", c.name, c.program)
			continue
		}
		image := "image" + strconv.Itoa(i)
		if err := l.newImage(image, c.encrypted); err != nil {
			return nil, err
		}
		if c.server == nil {
			list = append(list, &contestant{c.name, func(w workload, d time.Duration) (sample, error) { return c.run(image, w, d) }})
			continue
		}
		s, err := l.serve(c, image)
		if err != nil {
			return nil, err
		}
		list = append(list, &contestant{c.name, s.run})
	}
	return list, nil
}

// serve starts a candidate's server and makes sure that it survives a client.
func (l *lab) serve(c candidate, image string) (*server, error) {
	socket := filepath.Join(l.dir, image)
	for _, command := range []func(image, socket string) []string{c.server, c.fallback} {
		if command == nil {
			break
		}
		s, err := start(command(image, socket), socket)
		if err != nil {
			return nil, err
		}
		l.stops = append(l.stops, s.stop)
		if s.survivesClient() {
			return s, nil
		}
		if c.fallback != nil {
			fmt.Printf("%s: it ends when its first client leaves: measured without %s\n", c.name, c.lacks)
		}
	}
	return nil, fmt.Errorf("%s does not survive its first client", c.name)
}
