// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/luksgate/luksgate/bench/proc"
)

const (
	// startTimeout is how long a server may take to open its image, and stopTimeout to end.
	startTimeout = 60 * time.Second
	stopTimeout  = 10 * time.Second
)

// server is a process that serves an export named x on a unix socket.
type server struct {
	socket string
	cmd    *exec.Cmd
	gone   chan struct{} // closed when the process has ended
}

// start returns when the socket is there.
func start(argv []string, socket string) (*server, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var stderr bytes.Buffer
	s := &server{socket: socket, cmd: exec.Command(argv[0], argv[1:]...), gone: make(chan struct{})}
	s.cmd.Stderr = &stderr
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.gone)
	}()
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			time.Sleep(100 * time.Millisecond) // from bind to listen
			return s, nil
		}
		select {
		case <-s.gone:
			return nil, fmt.Errorf("%s ended\n%s", argv[0], stderr.Bytes())
		default:
		}
	}
	s.stop()
	return nil, fmt.Errorf("%s made no socket within %v\n%s", argv[0], startTimeout, stderr.Bytes())
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(os.Interrupt)
	select {
	case <-s.gone:
	case <-time.After(stopTimeout):
		_ = s.cmd.Process.Kill()
		<-s.gone
	}
}

// survivesClient lets a client come and go. fio, too, connects once before it begins.
func (s *server) survivesClient() bool {
	if run("nbdinfo", "--size", s.uri()) != nil {
		return false
	}
	select {
	case <-s.gone:
		return false
	case <-time.After(500 * time.Millisecond):
		return true
	}
}

func (s *server) uri() string { return "nbd+unix:///x?socket=" + s.socket }

// cpu is the processor time that the server has used.
func (s *server) cpu() (time.Duration, error) { return proc.CPU(s.cmd.Process.Pid) }

// osdCPU is the processor time that the OSDs have used of a cluster made by devcluster, which leaves their process ids
// beside its configuration; 0 for any other.
func osdCPU() time.Duration {
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(os.Getenv("CEPH_CONF")), "osd.*.pid"))
	total := time.Duration(0)
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			used, _ := proc.CPU(pid) // one that has ended counts as nothing
			total += used
		}
	}
	return total
}
