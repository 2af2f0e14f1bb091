// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/nbdclient"
	"github.com/luksgate/luksgate/bench/scratch"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

const (
	// readyTimeout is how long a server may take to open its image, and stopTimeout to end.
	readyTimeout = 30 * time.Second
	stopTimeout  = 10 * time.Second
	pollPause    = 20 * time.Millisecond
	// maxMessageBytes of what a server says are shown.
	maxMessageBytes = 2000
)

// A process is a server that runs.
type process struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer  // read when gone is closed
	gone   chan struct{} // closed when it has ended
}

// start starts argv with the passphrase on descriptor 3 and files from 4 on.
func start(ctx context.Context, argv []string, socket string, key *secret.Bytes, files []*os.File) (*process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	keyOut, keyIn, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = keyOut.Close() }()
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), gone: make(chan struct{})}
	p.cmd.Stderr = &p.stderr
	p.cmd.ExtraFiles = append([]*os.File{keyOut}, files...)
	// In a group of its own: Ctrl-C is for us, who end it in order. Where we cannot, because we were killed, the kernel does.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	_, err = keyIn.Write(key.Bytes()) // fits in the pipe
	if err = errors.Join(err, keyIn.Close()); err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	go func() {
		// The signal of the parent's death comes when the thread that started the process ends: it stays until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			close(p.gone)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// ready waits until the server lets a client in, and survives it.
func (p *process) ready(ctx context.Context, at engine.Endpoint) error {
	var last error
	for end := time.Now().Add(readyTimeout); time.Now().Before(end); time.Sleep(pollPause) {
		select {
		case <-p.gone:
			text := bytes.TrimSpace(p.stderr.Bytes())
			return fmt.Errorf("%s ended\n%s", p.cmd.Args[0], text[max(len(text)-maxMessageBytes, 0):])
		default:
		}
		conn, err := nbdclient.Dial(ctx, at.Network, at.Address, at.Export)
		if err == nil {
			return conn.Close()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		last = err
	}
	return fmt.Errorf("%s let nobody in within %v: %w", p.cmd.Args[0], readyTimeout, last)
}

// processes are those of one contestant.
type processes struct{ list []*process }

// stop ends them.
func (ps *processes) stop() error {
	for _, p := range ps.list {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.gone:
		case <-time.After(stopTimeout):
			_ = p.cmd.Process.Kill()
			<-p.gone
		}
	}
	ps.list = nil
	return nil
}

func joinStop(err error, ps *processes) error { return errors.Join(err, ps.stop()) }

// fill writes an export from end to end.
func fill(ctx context.Context, at engine.Endpoint, sizeBytes int64, seed uint64) error {
	conn, err := nbdclient.Dial(ctx, at.Network, at.Address, at.Export)
	if err != nil {
		return err
	}
	d := &writer{conn: conn}
	for range fillDepth {
		d.free = append(d.free, conn.NewOp())
	}
	return errors.Join(scratch.Fill(ctx, d, sizeBytes, seed, nil), conn.Close())
}

// fillDepth is at least that of scratch.Fill.
const fillDepth = 16

// writer is a scratch.Device over NBD.
type writer struct {
	conn *nbdclient.Conn
	mu   sync.Mutex
	free []*nbdclient.Op
}

// WriteAt implements scratch.Device.
func (w *writer) WriteAt(p []byte, offsetBytes int64, _ bool) error {
	w.mu.Lock()
	op := w.free[len(w.free)-1]
	w.free = w.free[:len(w.free)-1]
	w.mu.Unlock()
	op.Command, op.OffsetBytes, op.LengthBytes, op.Data = wire.CmdWrite, offsetBytes, uint32(len(p)), p
	err := w.conn.Do(op)
	w.mu.Lock()
	w.free = append(w.free, op)
	w.mu.Unlock()
	return err
}

// Flush implements scratch.Device; nothing is stable in memory.
func (w *writer) Flush() error { return nil }
