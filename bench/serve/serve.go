// SPDX-License-Identifier: Apache-2.0

// Package serve runs `luksgate serve` for a benchmark and looks at it from outside.
package serve

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/bench/proc"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

const (
	startTimeout = time.Minute
	stopTimeout  = 2 * time.Minute // many images close
	askAgain     = 5 * time.Millisecond
)

// A Daemon is one that runs. It is used by one goroutine.
type Daemon struct {
	// Client talks to it.
	Client *api.Client

	dir string
	pid int // of the process that serves; an upgrade changes it
}

// Start runs program with a configuration, to which it adds the admin socket, in a folder of its own, and waits until it
// answers. In the configuration, DIR stands for the folder.
func Start(program, dir, conf string) (*Daemon, error) {
	d := &Daemon{Client: api.NewClient(filepath.Join(dir, "admin")), dir: dir}
	file := filepath.Join(dir, "conf")
	text := "admin: {socket: DIR/admin}\n" + conf
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(d.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(program, "serve", "--config", file)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d.pid = cmd.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for start := time.Now(); ; time.Sleep(askAgain) {
		err := d.Client.Health(context.Background())
		if err == nil {
			return d, nil
		}
		select {
		case why := <-ended:
			err = fmt.Errorf("it ended: %w", errors.Join(why, err))
		default:
			if time.Since(start) < startTimeout {
				continue
			}
			_ = cmd.Process.Kill()
		}
		text, _ := d.Log()
		return nil, fmt.Errorf("luksgate serve: %w\n%s", err, text)
	}
}

func (d *Daemon) logFile() string { return filepath.Join(d.dir, "log") }

// PID is the process that serves.
func (d *Daemon) PID() int { return d.pid }

// Socket is the path of a socket in the daemon's folder.
func (d *Daemon) Socket(name string) string { return filepath.Join(d.dir, name) }

// Log is what it has said so far.
func (d *Daemon) Log() (string, error) {
	text, err := os.ReadFile(d.logFile())
	return string(text), err
}

// WaitOpen waits until all images are open.
func (d *Daemon) WaitOpen(ctx context.Context) error {
	for start := time.Now(); ; time.Sleep(askAgain) {
		exports, err := d.Client.Exports(ctx)
		if err != nil {
			return err
		}
		open := 0
		for _, e := range exports {
			if e.State == api.StateFailed {
				return fmt.Errorf("%s: %s", e.Name, e.Error)
			}
			if e.State == api.StateOpen {
				open++
			}
		}
		if open == len(exports) {
			return nil
		}
		if time.Since(start) > startTimeout {
			return fmt.Errorf("%d of %d images are open", open, len(exports))
		}
	}
}

// Upgrade replaces the process.
func (d *Daemon) Upgrade(ctx context.Context) (api.Upgrade, error) {
	u, err := d.Client.Upgrade(ctx, false)
	if err != nil {
		text, _ := d.Log()
		return u, fmt.Errorf("%w\n%s", err, text)
	}
	d.pid = u.PID
	return u, nil
}

// State is what the process has now.
func (d *Daemon) State() (proc.Process, error) { return proc.ReadProcess(d.pid) }

// Metric is the value of a metric without labels.
func (d *Daemon) Metric(name string) (float64, error) {
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", d.Socket("admin"))
	}}
	res, err := (&http.Client{Transport: t}).Get("http://luksgate/metrics")
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}

// Stop ends the daemon in order and waits for that, whoever's child it is.
func (d *Daemon) Stop() error {
	fd, err := unix.PidfdOpen(d.pid, 0)
	if err != nil {
		return fmt.Errorf("luksgate serve, process %d: %w", d.pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Kill(d.pid, unix.SIGTERM); err != nil {
		return err
	}
	until := time.Now().Add(stopTimeout)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(until).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			_ = unix.Kill(d.pid, unix.SIGKILL)
			return fmt.Errorf("luksgate serve did not end within %v", stopTimeout)
		}
		return nil
	}
}
