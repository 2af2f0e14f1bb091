// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sizeBytes is the size of every export.
const sizeBytes = 256 << 20

// ceiling is no server: it answers as fast as can be and keeps nothing. What the client does with it bounds all ratios.
const ceiling = "ceiling"

// contestant is a server that runs.
type contestant struct {
	name   string
	socket string
	cmd    *exec.Cmd
	stderr bytes.Buffer
}

func (c *contestant) uri() string { return "nbd+unix:///?socket=" + c.socket }

// startAll starts the servers and fills them with the same random bytes, because zeros are a special case for some.
func startAll(ctx context.Context, dir, wanted string) ([]*contestant, func(), error) {
	pattern := filepath.Join(dir, "pattern")
	raw := filepath.Join(dir, "raw")
	if err := fill(pattern, raw); err != nil {
		return nil, nil, err
	}
	size := strconv.Itoa(sizeBytes)
	commands := []struct {
		name string
		args func(socket string) []string
	}{
		{"luksgate", func(s string) []string {
			return []string{filepath.Join(dir, "luksgate"), "export", "mem:" + size, "--socket", s}
		}},
		{"nbdkit", func(s string) []string { return []string{"nbdkit", "-f", "-U", s, "memory", size} }},
		{"qemu-nbd", func(s string) []string {
			return []string{"qemu-nbd", "-t", "-f", "raw", "--cache=writeback", "-k", s, raw}
		}},
		{"go-nbd", func(s string) []string {
			return []string{filepath.Join(dir, "gonbdserver"), "-socket", s, "-size", size}
		}},
		{ceiling, func(s string) []string {
			return []string{filepath.Join(dir, ceiling), "--socket", s, "--size", size}
		}},
	}
	if err := build(ctx, dir); err != nil {
		return nil, nil, err
	}
	var list []*contestant
	stop := func() {
		for _, c := range list {
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait()
		}
	}
	for _, x := range commands {
		if wanted != "" && !strings.Contains(","+wanted+",", ","+x.name+",") {
			continue
		}
		c := &contestant{name: x.name, socket: filepath.Join(dir, x.name+".sock")}
		argv := x.args(c.socket)
		c.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
		c.cmd.Stderr = &c.stderr
		if err := c.cmd.Start(); err != nil {
			stop()
			return nil, nil, fmt.Errorf("start %s: %w", x.name, err)
		}
		list = append(list, c)
		if err := c.ready(ctx, pattern); err != nil {
			stop()
			return nil, nil, err
		}
	}
	return list, stop, nil
}

// fill makes the pattern and qemu-nbd's copy of it.
func fill(pattern, raw string) error {
	f, err := os.Create(pattern)
	if err != nil {
		return err
	}
	if _, err = io.CopyN(f, rand.Reader, sizeBytes); err != nil {
		_ = f.Close()
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	content, err := os.ReadFile(pattern)
	if err != nil {
		return err
	}
	return os.WriteFile(raw, content, 0o600)
}

// build builds into dir what does not come with the system.
func build(ctx context.Context, dir string) error {
	to := func(name string) string { return filepath.Join(dir, name) }
	for _, argv := range [][]string{
		{"go", "build", "-tags", "noceph", "-o", to("luksgate"), "."},
		{"go", "build", "-o", to("gonbdserver"), "./bench/nbd/gonbdserver"},
		{"cc", "-O2", "-o", to(ceiling), "bench/nbd/ceiling/ceiling.c"},
	} {
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("build %s: %w\n%s", argv[len(argv)-1], err, out)
		}
	}
	return nil
}

// ready waits for the socket and copies the pattern into the export (go-nbd's client side of that is fio, because its
// server does not speak to nbdcopy's liking).
func (c *contestant) ready(ctx context.Context, pattern string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn, err := net.Dial("unix", c.socket)
		if err == nil {
			_ = conn.Close()
			break
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%s does not listen: %w\n%s", c.name, err, c.stderr.Bytes())
		}
		time.Sleep(20 * time.Millisecond)
	}
	if c.name == ceiling {
		return nil
	}
	out, err := exec.CommandContext(ctx, "nbdcopy", "--requests=4", pattern, c.uri()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fill %s: %w\n%s", c.name, err, out)
	}
	return nil
}
