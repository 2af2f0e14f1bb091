// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package boot is what all programs that are the only ones of a test guest do first and last.
package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Run mounts what a system has, loads the guest's modules, in the order of their names, runs do and powers the machine off.
// An error is told on the console in a line that begins with ERROR.
func Run(do func() error) {
	err := start()
	if err == nil {
		err = do()
	}
	if err != nil {
		fmt.Println("ERROR", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	time.Sleep(time.Hour)
}

func start() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/run"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	// The kernel's own messages would share the console with our lines.
	_ = os.WriteFile("/proc/sys/kernel/printk", []byte("1"), 0)
	return loadModules()
}

func loadModules() error {
	paths, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("module %s: %w", path, err)
		}
	}
	return nil
}
