// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// passphrase of all images.
const passphrase = "correct horse battery staple"

// contestant is a server that runs.
type contestant struct {
	name   string
	socket string
	cmd    *exec.Cmd
	stderr bytes.Buffer
}

func (c *contestant) uri() string { return "nbd+unix:///?socket=" + c.socket }

// lab is a directory in memory with the programs, the pattern and the images.
type lab struct {
	dir     string
	program string // luksgate
	beside  string // another build of it, or ""
	pattern string
	key     string
}

func newLab(ctx context.Context, o *options) (*lab, error) {
	dir, err := os.MkdirTemp("/dev/shm", "luksgate-bench-")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, program: o.program, beside: o.beside, pattern: filepath.Join(dir, "pattern"), key: filepath.Join(dir, "key")}
	if err = l.build(ctx); err == nil {
		err = l.fill()
	}
	if err != nil {
		l.remove()
		return nil, err
	}
	return l, nil
}

func (l *lab) remove() { _ = os.RemoveAll(l.dir) }

// build builds what does not come with the system.
func (l *lab) build(ctx context.Context) error {
	to := func(name string) string { return filepath.Join(l.dir, name) }
	commands := [][]string{
		{"go", "build", "-o", to("gonbdserver"), "./bench/nbd/gonbdserver"},
		{"cc", "-O2", "-o", to(ceiling), "bench/nbd/ceiling/ceiling.c"},
	}
	if l.program == "" {
		l.program = to(luksgate)
		commands = append(commands, []string{"go", "build", "-tags", "noceph", "-o", l.program, "."})
	}
	for _, argv := range commands {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", argv[len(argv)-1], err, out)
		}
	}
	return nil
}

// fill makes the pattern: random, because zeros are a special case for some servers.
func (l *lab) fill() error {
	if err := os.WriteFile(l.key, []byte(passphrase), 0o600); err != nil {
		return err
	}
	f, err := os.Create(l.pattern)
	if err != nil {
		return err
	}
	if _, err = io.CopyN(f, rand.Reader, sizeBytes); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// start starts the servers of a group, all with the pattern as their content, and returns how to stop them.
func (l *lab) start(ctx context.Context, g *group, wanted string) (list []*contestant, stop func(), err error) {
	stop = func() {
		for _, c := range list {
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait()
		}
	}
	for _, s := range g.servers {
		if wanted != "" && !slices.Contains(strings.Split(wanted, ","), s.name) || s.name == beside && l.beside == "" {
			continue
		}
		c, err := l.startOne(ctx, g, s)
		if c != nil {
			list = append(list, c)
		}
		if err != nil {
			stop()
			return nil, nil, err
		}
	}
	return list, stop, nil
}

// startOne starts a server. With an error it returns the process too, if there is one.
func (l *lab) startOne(ctx context.Context, g *group, s server) (*contestant, error) {
	base := filepath.Join(l.dir, g.name+"-"+s.name)
	p := place{program: l.program, dir: l.dir, socket: base + ".sock", image: base + ".img", key: l.key}
	if s.name == beside {
		p.program = l.beside
	}
	if err := l.makeImage(ctx, s.image, p.image); err != nil {
		return nil, err
	}
	argv := s.argv(p)
	c := &contestant{name: s.name, socket: p.socket, cmd: exec.CommandContext(ctx, argv[0], argv[1:]...)}
	c.cmd.Stderr = &c.stderr
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	if err := c.ready(ctx); err != nil || s.name == ceiling {
		return c, err
	}
	out, err := output(ctx, fillTime, "nbdcopy", "--requests=4", l.pattern, c.uri())
	if err != nil {
		return c, fmt.Errorf("fill %s: %w\n%s", c.name, err, out)
	}
	return c, nil
}

// makeImage makes a file with room for the export. Keys are derived fast, because nobody attacks them.
func (l *lab) makeImage(ctx context.Context, kind imageKind, path string) error {
	var format []string
	headerBytes := int64(0)
	switch kind {
	case noImage:
		return nil
	case luks1Image:
		format, headerBytes = []string{"--type", "luks1"}, 2<<20
	case luks2Image:
		format, headerBytes = []string{"--type", "luks2", "--sector-size", "4096", "--pbkdf", "pbkdf2"}, 16<<20
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(path, sizeBytes+headerBytes); err != nil || kind == rawImage {
		return err
	}
	argv := append([]string{"luksFormat", "--batch-mode", "--cipher", "aes-xts-plain64", "--key-size", "512",
		"--pbkdf-force-iterations", "1000", "--key-file", l.key}, format...)
	if out, err := exec.CommandContext(ctx, "cryptsetup", append(argv, path)...).CombinedOutput(); err != nil {
		return fmt.Errorf("format %s: %w\n%s", path, err, out)
	}
	return nil
}

// fillTime is how long a server may take for the pattern, on a busy machine too.
const fillTime = time.Minute

// output runs a client, which would wait for ever for a server that does not answer, and returns what it printed, with
// an error its complaints too.
func output(ctx context.Context, limit time.Duration, argv ...string) ([]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(bounded, argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second // fio's jobs are processes of their own
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		out = append(out, exit.Stderr...)
	}
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("not done after %v", limit)
	}
	return out, err
}

// ready waits for the socket.
func (c *contestant) ready(ctx context.Context) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("unix", c.socket)
		if err == nil {
			return conn.Close()
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%s does not listen: %w\n%s", c.name, err, c.stderr.Bytes())
		}
	}
}
