// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	// dataBytes is the plaintext of every image.
	dataBytes = 256 << 20
	// headerBytes is where the data of an image begins that rbd formatted as LUKS2.
	headerBytes = 16 << 20
)

// lab is a pool on the cluster and a folder here.
type lab struct {
	dir, pool, key string
	conf           string // of the cluster
	encrypted      string // file: header and random ciphertext
	luksgate       string // program
	stops          []func()
}

// newLab builds the programs and the content of the images.
func newLab(luksgate string) (*lab, error) {
	conf := os.Getenv("CEPH_CONF")
	if conf == "" {
		return nil, errors.New("set CEPH_CONF, or run it by deploy/devcluster/with-cluster (make bench-rbd)")
	}
	dir, err := os.MkdirTemp("", "luksgate-bench-")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, conf: conf, pool: fmt.Sprintf("luksgate-bench-%d", os.Getpid())}
	l.key, l.encrypted = filepath.Join(dir, "key"), filepath.Join(dir, "encrypted")
	if l.luksgate = luksgate; luksgate == "" {
		l.luksgate = filepath.Join(dir, "luksgate")
		if err := run("go", "build", "-o", l.luksgate, "."); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	if err := l.prepare(); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) prepare() error {
	if err := os.WriteFile(l.key, []byte("correct horse"), 0o600); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"go", "build", "-o", l.dir + "/driver", "./bench/rbd/driver"},
		{"cc", "-O2", "-o", l.dir + "/loop", "bench/rbd/loop/loop.c", "-lrbd", "-lrados", "-lpthread", "-ldl"},
		{"ceph", "osd", "pool", "create", l.pool, "8"},
		{"rbd", "pool", "init", l.pool},
	} {
		if err := run(argv...); err != nil {
			return err
		}
	}
	return l.makeContent()
}

// makeContent formats an image with the rbd tool, takes its header, makes its keyslot cheap to open, and appends random
// bytes, which are as good as any other ciphertext.
func (l *lab) makeContent() error {
	spec := l.pool + "/header"
	raw := fmt.Sprintf("rbd:%s:conf=%s", spec, l.conf)
	for _, argv := range [][]string{
		{"rbd", "create", "--size", "24M", spec},
		{"rbd", "encryption", "format", spec, "luks2", l.key},
		{"qemu-img", "dd", "-f", "raw", "-O", "raw", "bs=1M", fmt.Sprintf("count=%d", headerBytes>>20), "if=" + raw, "of=" + l.encrypted},
		{"cryptsetup", "luksChangeKey", "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
			"--key-file", l.key, l.encrypted, l.key},
	} {
		if err := run(argv...); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(l.encrypted, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.Reader, dataBytes)
	return errors.Join(err, f.Close())
}

// newImage makes an image with the content, with or without the header, and returns its name.
func (l *lab) newImage(name string, encrypted bool) error {
	cmd := exec.Command("rbd", "import", "--no-progress", "-", l.pool+"/"+name)
	f, err := os.Open(l.encrypted)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if !encrypted {
		if _, err := f.Seek(headerBytes, io.SeekStart); err != nil {
			return err
		}
	}
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("rbd import: %w\n%s", err, out)
	}
	return nil
}

// close ends the servers and removes the pool and the folder.
func (l *lab) close() error {
	for _, stop := range l.stops {
		stop()
	}
	err := run("ceph", "osd", "pool", "rm", l.pool, l.pool, "--yes-i-really-really-mean-it")
	return errors.Join(err, os.RemoveAll(l.dir))
}

// runTimeout bounds every tool.
const runTimeout = 2 * time.Minute

// run runs a tool to its end.
func run(argv ...string) error {
	_, _, err := output(argv...)
	return err
}

// output runs a tool and returns what it wrote, and the processor time it took.
func output(argv ...string) ([]byte, time.Duration, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second
	timer := time.AfterFunc(runTimeout, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = exit.Stderr
		}
		return nil, 0, fmt.Errorf("%s: %w\n%s", argv[0], err, out)
	}
	return out, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}
