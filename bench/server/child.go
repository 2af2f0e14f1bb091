// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/luksgate/luksgate/crypt/secret"
)

const (
	// startTimeout is how long opening and filling images may take, stopTimeout how long ending.
	startTimeout = 5 * time.Minute
	stopTimeout  = 30 * time.Second
	// maxMessageBytes of the child's standard error are kept.
	maxMessageBytes = 8 << 10
)

// A Child is a server that runs.
type Child struct {
	Socket string

	cmd    *exec.Cmd
	stdin  io.Closer
	stderr *tail
	gone   chan struct{} // closed when the process has ended
	err    error         // valid then
}

// Start starts program, which is luksgate, as a server and returns when clients may come. The socket is made in dir. The
// files become the first images. key may be nil for plain images.
func Start(ctx context.Context, program, dir string, spec Spec, key *secret.Bytes, files []*os.File) (*Child, error) {
	c := &Child{gone: make(chan struct{}), stderr: &tail{}}
	c.Socket = filepath.Join(dir, fmt.Sprintf("s%d", time.Now().UnixNano()))
	spec.Socket, spec.Files = c.Socket, len(files)
	c.cmd = exec.Command(program, "bench", "serve")
	c.cmd.Stderr = c.stderr
	// In a process group of its own: Ctrl-C is for the parent, which ends it in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	keyOut, keyIn, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = keyOut.Close() }()
	c.cmd.ExtraFiles = append([]*os.File{keyOut}, files...)
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, errors.Join(err, keyIn.Close())
	}
	c.stdin = stdin
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, keyIn.Close())
	}
	if err := c.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the gateway: %w", err), keyIn.Close())
	}
	if key != nil {
		_, err = keyIn.Write(key.Bytes()) // 64 bytes: fits in the pipe
	}
	err = errors.Join(err, keyIn.Close(), json.NewEncoder(stdin).Encode(spec))
	began := make(chan error, 1)
	go func() {
		text := make([]byte, len(ready))
		_, err := io.ReadFull(stdout, text)
		began <- err
		c.err = c.cmd.Wait()
		close(c.gone)
	}()
	if err == nil {
		err = c.await(ctx, began)
	}
	if err != nil {
		_ = c.Stop()
		return nil, fmt.Errorf("the gateway did not start: %w\n%s", err, c.stderr)
	}
	return c, nil
}

func (c *Child) await(ctx context.Context, began <-chan error) error {
	select {
	case err := <-began:
		return err
	case <-time.After(startTimeout):
		return fmt.Errorf("it is not ready after %v", startTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// PID is the process's number.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Stop ends the server in order and waits for it.
func (c *Child) Stop() error {
	_ = c.stdin.Close()
	select {
	case <-c.gone:
	case <-time.After(stopTimeout):
		_ = c.cmd.Process.Kill()
		<-c.gone
	}
	if c.err != nil {
		return fmt.Errorf("the gateway ended: %w\n%s", c.err, c.stderr)
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(len(t.buf)-maxMessageBytes, 0):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
