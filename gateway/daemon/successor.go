// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/nbdserver"
)

// EnvHandover names the descriptor by which a successor talks to its predecessor.
const EnvHandover = "LUKSGATE_HANDOVER_FD"

// successorFD is what that is: the first after the standard ones.
const successorFD = 3

// startTimeout is how long a successor may take to read its configuration, and beyond the time that an image has to get
// the next one ready.
const startTimeout = 30 * time.Second

func (d *Daemon) startSuccessor() (*exec.Cmd, *channel, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "successor")
	defer func() { _ = theirs.Close() }()
	ch, err := newChannel(os.NewFile(uintptr(pair[0]), "successor"))
	if err != nil {
		return nil, nil, err
	}
	program, err := exec.LookPath(os.Args[0])
	if err != nil {
		return nil, nil, errors.Join(err, ch.c.Close())
	}
	cmd := exec.Command(program, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = successorEnvironment(os.Environ())
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(err, ch.c.Close())
	}
	_ = theirs.Close() // so that its end is seen
	if err := ch.expect(stepReady, time.Now().Add(startTimeout)); err != nil {
		_ = cmd.Process.Kill()
		return nil, nil, errors.Join(err, ch.c.Close(), cmd.Wait())
	}
	return cmd, ch, nil
}

func successorEnvironment(env []string) []string {
	out := slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		return strings.HasPrefix(e, "LISTEN_") || strings.HasPrefix(e, "WATCHDOG_PID=") || strings.HasPrefix(e, EnvHandover+"=")
	})
	return append(out, fmt.Sprintf("%s=%d", EnvHandover, successorFD))
}

// getReady has the successor open what is open here, beside this process, and waits until it has. Clients are served
// meanwhile.
func (d *Daemon) getReady(ch *channel) error {
	p := plan{Version: stateVersion}
	p.Added, p.Drained = d.changedExports()
	patience := startTimeout
	for _, e := range d.all() {
		e.mu.Lock()
		patience = max(patience, startTimeout+time.Duration(e.cfg.OpenTimeout))
		if img := e.image; img != nil && img.export.Err() == nil {
			dev := img.export.Device()
			p.Open = append(p.Open, planExport{&nbdserver.Session{
				Export: nbdserver.ExportInfo{Name: e.name}, SizeBytes: dev.SizeBytes(), Properties: dev.Properties(),
			}, e.users})
		}
		e.mu.Unlock()
	}
	_ = ch.c.SetWriteDeadline(time.Now().Add(startTimeout))
	if err := ch.send(p); err != nil {
		return err
	}
	for range p.Open {
		if err := ch.expect(stepOpened, time.Now().Add(patience)); err != nil {
			return err
		}
	}
	return ch.expect(stepPrepared, time.Now().Add(startTimeout))
}
