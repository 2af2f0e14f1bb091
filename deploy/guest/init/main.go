// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command init is all that runs in a test guest. It writes and reads its disk without a pause, and remembers in the guest's
// memory, which a migration takes along, what every block must be.
//
// It speaks lines on the serial console:
//
//	BOOTED                 the system runs; a disk that is there already is found next
//	READY BYTES            a disk is there and every block of it was written, the work begins
//	OPS N                  N requests were answered so far
//	ERROR TEXT             a request failed, or a block is not what was written
//	DIGEST SHA256 ops=N    the answer to "stop": all blocks were read once more, and this is the disk's content
//	IDLE                   the answer to "wait-gone": no request is under way, none follows
//	GONE                   then the disk was unplugged
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/deploy/guest/boot"
)

const device = "/dev/vda"

func main() { boot.Run(run) }

func run() error {
	fmt.Println("BOOTED")
	d, err := waitDisk()
	if err != nil {
		return err
	}
	if err := d.fillAll(); err != nil {
		return err
	}
	fmt.Println("READY", d.sizeBytes)
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for w := range workerCount {
		workers.Go(func() { d.work(w, stop) })
	}
	workers.Go(func() { d.report(stop) })
	go d.watch()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch strings.TrimSpace(lines.Text()) {
		case "stop":
			close(stop)
			workers.Wait()
			return d.finish()
		case "wait-gone":
			close(stop)
			workers.Wait()
			fmt.Println("IDLE")
			return waitGone()
		}
	}
	return fmt.Errorf("console: %w", lines.Err())
}

// waitDisk waits for a disk, which may be plugged in at any time. The kernel makes its device file a moment before there is
// a disk to be opened.
func waitDisk() (*disk, error) {
	for {
		d, err := openDisk()
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENXIO) {
			return d, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func waitGone() error {
	for {
		if _, err := os.Stat("/sys/block/vda"); err != nil {
			fmt.Println("GONE")
			time.Sleep(time.Hour) // the guest stays up, as one does that loses a disk
		}
		time.Sleep(20 * time.Millisecond)
	}
}
