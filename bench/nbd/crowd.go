// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/luksgate/luksgate/bench/nbdclient"
	"github.com/luksgate/luksgate/bench/proc"
)

// spin starts n processes that want a processor each, and returns how to stop them.
func spin(ctx context.Context, n int) (stop func(), err error) {
	var list []*exec.Cmd
	stop = func() {
		for _, cmd := range list {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	for range n {
		cmd := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			stop()
			return nil, err
		}
		list = append(list, cmd)
	}
	return stop, nil
}

// idle prints how much processor time the servers take for clients that ask for nothing.
func idle(ctx context.Context, o *options, title string, clients int, list []*contestant) error {
	fmt.Printf("\n%s\n  %-10s %s\n", title, "server", "CPU in a second [us]")
	for _, c := range list {
		used, err := c.idle(ctx, clients, o.runtime)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", c.name, title, err)
		}
		fmt.Printf("  %-10s %20.0f\n", c.name, used.Seconds()/o.runtime.Seconds()*1e6)
	}
	return nil
}

// idle has clients ask once, so that the server knows them as busy, and measures after a moment.
func (c *contestant) idle(ctx context.Context, clients int, length time.Duration) (used time.Duration, err error) {
	for range clients {
		conn, err := nbdclient.Dial(ctx, "unix", c.socket, "")
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		op := conn.NewOp()
		op.Data, op.LengthBytes = make([]byte, 4096), 4096
		if err := conn.Do(op); err != nil {
			return 0, err
		}
	}
	time.Sleep(200 * time.Millisecond)
	before, err := proc.CPU(c.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	time.Sleep(length)
	after, err := proc.CPU(c.cmd.Process.Pid)
	return after - before, err
}
