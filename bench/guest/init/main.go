// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command init is all that runs in the guest of bench/guest. It makes block devices of one encrypted image in several ways,
// asks each for the same blocks, and tells what that took. On the console it prints
//
//	ABOUT TEXT     what measures
//	RESULT JSON    one measurement (package measure)
//	DONE           at the end
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksgate/luksgate/bench/guest/measure"
	"github.com/luksgate/luksgate/deploy/guest/boot"
)

func main() { boot.Run(run) }

func run() error {
	text, err := os.ReadFile(measure.PlanPath)
	if err != nil {
		return err
	}
	var plan measure.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return err
	}
	if err := about(); err != nil {
		return err
	}
	if err := network(); err != nil {
		return err
	}
	// Every request under way blocks a thread. Go would take a while to notice, and keep fewer under way, without this.
	runtime.GOMAXPROCS(2 * plan.Depth)
	var all []*contestant
	for n, c := range contestants(plan) {
		if err := c.start(fmt.Sprintf("/dev/nbd%d", n)); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		all = append(all, c)
	}
	for _, w := range plan.Workloads {
		for round := range plan.Rounds {
			for i := range all {
				if err := all[(i+round)%len(all)].report(plan, w, uint64(round)); err != nil {
					return err
				}
			}
		}
	}
	fmt.Println(measure.Done)
	return nil
}

// about says which kernel and which AES this is: the emulator does not have all that the host has.
func about() error {
	out, err := exec.Command("/bin/luksgate", "version").Output()
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "xts") {
			fmt.Println(measure.AboutPrefix+"luksgate:", strings.Join(strings.Fields(line), " "))
		}
	}
	crypto, err := os.ReadFile("/proc/crypto")
	if err != nil {
		return err
	}
	if strings.Contains(string(crypto), "xts-aes-aesni") {
		fmt.Println(measure.AboutPrefix + "dm-crypt: xts-aes-aesni")
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	fmt.Println(measure.AboutPrefix+"Linux", unix.ByteSliceToString(uts.Release[:]))
	return nil
}

// report measures and prints.
func (c *contestant) report(plan measure.Plan, w measure.Workload, seed uint64) error {
	r, err := c.measure(plan, w, seed)
	if err != nil {
		return fmt.Errorf("%s, %v: %w", c.name, w, err)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	fmt.Printf("%s%s\n", measure.ResultPrefix, line)
	return nil
}

// network brings up the card, behind which 127.0.0.1 is the host's own: that is where a cluster for tests listens.
func network() error {
	for _, args := range []string{
		"addr add 10.0.2.15/24 dev eth0", "link set eth0 up", "route add 127.0.0.1/32 via 10.0.2.2 dev eth0 src 10.0.2.15",
	} {
		if err := do("ip", strings.Fields(args)...); err != nil {
			return err
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0)
}

// do runs a program to its end.
func do(name string, args ...string) error {
	if out, err := exec.Command("/bin/"+name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
	}
	return nil
}

// patience is how long, by the guest's clock, a program may take until it serves.
const patience = time.Minute

// background starts a program that stays, and waits until a path exists.
func background(path, name string, args ...string) error {
	var said bytes.Buffer // read when it has ended
	cmd := exec.Command("/bin/"+name, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("%s %v: %w\n%s", name, args, errors.Join(errors.New("it ended"), err), said.Bytes())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s %v: there is no %s after %v", name, args, path, patience)
}
