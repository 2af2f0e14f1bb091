// SPDX-License-Identifier: Apache-2.0

// Command delay is a cable between two network namespaces on which every packet takes a while: a TUN device in each, and
// this process between them. bench/netem uses it where the kernel has no netem.
//
//	delay NAMESPACE NAMESPACE MICROSECONDS
//
// It makes a device called cable0 in both, which the caller gives addresses and sets up when "ready" is printed, and
// forwards until standard input ends. Packets keep their order and none is lost.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	device = "cable0"
	// maxPacketBytes is the largest packet that a TUN device hands out.
	maxPacketBytes = 64 << 10
	// inFlight is how many packets are on the cable at most.
	inFlight = 1024
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "delay:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: delay NAMESPACE NAMESPACE MICROSECONDS")
	}
	micros, err := strconv.Atoi(args[2])
	if err != nil || micros < 0 {
		return fmt.Errorf("%q: expected microseconds that a packet takes", args[2])
	}
	a, err := open(args[0])
	if err != nil {
		return err
	}
	b, err := open(args[1])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	failed := make(chan error, 4)
	carry(a, b, time.Duration(micros)*time.Microsecond, failed)
	carry(b, a, time.Duration(micros)*time.Microsecond, failed)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		failed <- nil
	}()
	return <-failed
}

// open makes the device in a namespace of ip-netns(8). The descriptor works in any.
func open(namespace string) (int, error) {
	type result struct {
		fd  int
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and its namespace with it
		fd, err := openHere("/run/netns/" + namespace)
		made <- result{fd, err}
	}()
	r := <-made
	return r.fd, r.err
}

func openHere(namespace string) (int, error) {
	ns, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", namespace, err)
	}
	defer func() { _ = unix.Close(ns) }()
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return 0, fmt.Errorf("%s: %w", namespace, err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(device)
	if err != nil {
		return 0, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return 0, fmt.Errorf("device %s in %s: %w", device, namespace, err)
	}
	return fd, nil
}

// A packet is one on the cable.
type packet struct {
	bytes []byte
	due   time.Duration // on the monotonic clock
}

// carry takes packets from one side to the other.
func carry(from, to int, takes time.Duration, failed chan<- error) {
	cable := make(chan packet, inFlight)
	free := make(chan []byte, inFlight)
	go func() {
		runtime.LockOSThread()
		for {
			var buf []byte
			select {
			case buf = <-free:
			default:
				buf = make([]byte, maxPacketBytes)
			}
			n, err := unix.Read(from, buf)
			if err != nil && !errors.Is(err, unix.EINTR) {
				failed <- fmt.Errorf("read: %w", err)
				return
			}
			if n > 0 {
				cable <- packet{buf[:n], now() + takes}
			}
		}
	}()
	go func() {
		runtime.LockOSThread()
		// Timers of this thread are not put off to save energy.
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
		for p := range cable {
			sleepUntil(p.due)
			// A packet that the other side does not want (its device is down) is lost, as on a real cable.
			_, _ = unix.Write(to, p.bytes)
			select {
			case free <- p.bytes[:maxPacketBytes]:
			default:
			}
		}
	}()
}

func now() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		panic("BUG: there is no monotonic clock")
	}
	return time.Duration(ts.Nano())
}

// sleepUntil sleeps in the kernel: Go's own timers are not so exact.
func sleepUntil(due time.Duration) {
	ts := unix.NsecToTimespec(int64(due))
	for errors.Is(unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil), unix.EINTR) {
	}
}
