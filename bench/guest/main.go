// SPDX-License-Identifier: Apache-2.0

// Command guest compares luksgate with what needs the kernel's NBD driver: dm-crypt on luksgate's own plain export, rbd-nbd
// with dm-crypt, and rbd-nbd with librbd's encryption. All run in a guest, on one image, with the same kernel client.
//
// The guest is emulated, so that time there means nothing. But the emulator counts instructions (qemu's -icount), one a
// nanosecond of the guest's clock: what is measured is how many instructions the whole guest executes for a request, whoever
// executes them, which neither the host's speed nor its load changes. It is no rate: instructions differ in what they take.
//
// It wants a Ceph cluster on 127.0.0.1 in $CEPH_CONF, the guest of deploy/guest/guest, and a built luksgate; it makes its
// image and removes it.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/luksgate/luksgate/bench/command"
	"github.com/luksgate/luksgate/bench/guest/measure"
	"github.com/luksgate/luksgate/bench/scratch"
	"github.com/luksgate/luksgate/bench/workload"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// requests that are measured, by the size of each.
var requests = []struct{ blockBytes, count int }{{4 << 10, 1000}, {64 << 10, 300}}

type options struct {
	program, pool, dir string
	plan               measure.Plan
	verbose            bool
}

func main() {
	var o options
	flag.StringVar(&o.program, "luksgate", "bin/luksgate", "the program")
	flag.StringVar(&o.pool, "pool", "rbd", "pool of the scratch image")
	flag.IntVar(&o.plan.Rounds, "rounds", 3, "rounds of each measurement")
	flag.IntVar(&o.plan.Depth, "depth", 16, "requests in flight")
	flag.BoolVar(&o.verbose, "v", false, "show the guest's console")
	flag.Parse()
	command.Main("bench/guest", func(ctx context.Context) error { return run(ctx, o) })
}

const imageBytes = 64 << 20

func run(ctx context.Context, o options) (err error) {
	if o.plan.Conf, err = filepath.Abs(os.Getenv("CEPH_CONF")); err != nil {
		return err
	}
	if o.dir, err = os.MkdirTemp("", "luksgate-guest-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	img, maker, err := o.scratch(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, maker.Close()) }()
	o.plan.Image, o.plan.SizeBytes = img.Ref.Pool+"/"+img.Ref.Image, imageBytes
	for _, kind := range []workload.Kind{workload.RandomRead, workload.RandomWrite} {
		for _, r := range requests {
			o.plan.Workloads = append(o.plan.Workloads, measure.Workload{Kind: kind, BlockBytes: r.blockBytes, Requests: r.count})
		}
	}
	machine, err := o.machine(ctx, maker.Key.Bytes())
	if err != nil {
		return err
	}
	said, err := o.boot(ctx, machine)
	if err != nil {
		return err
	}
	fmt.Print(said.table())
	return nil
}

// scratch makes the image. The maker removes it.
func (o *options) scratch(ctx context.Context) (*scratch.Image, *scratch.Maker, error) {
	maker, err := scratch.NewMaker(scratch.Options{
		Target: image.Ref{Scheme: image.RBD, Pool: o.pool, Image: "guest"}, SizeBytes: imageBytes, Version: 2,
		Ceph: rbd.Config{ConfFile: o.plan.Conf}, Logger: slog.New(slog.DiscardHandler), Seed: 1,
	})
	if err != nil {
		return nil, nil, err
	}
	img, err := maker.New(ctx, nil)
	if err != nil {
		return nil, nil, errors.Join(err, maker.Close())
	}
	return img, maker, nil
}

// boot runs the guest and collects what it says.
func (o *options) boot(ctx context.Context, args []string) (*console, error) {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var said console
	if o.verbose {
		said.echo = os.Stderr
	}
	if err := errors.Join(said.read(out), cmd.Wait()); err != nil {
		return nil, fmt.Errorf("the guest: %w\n%s", err, stderr.Bytes())
	}
	return &said, nil
}

// machine writes the guest's files and returns qemu's arguments.
func (o *options) machine(ctx context.Context, key []byte) ([]string, error) {
	initrd, kernel, err := o.files(ctx, key)
	if err != nil {
		return nil, err
	}
	// ERMS would have the kernel copy with an instruction that the emulator counts once for each byte.
	return []string{
		"-machine", "q35,accel=tcg", "-cpu", "max,erms=off,fsrm=off", "-icount", "shift=0", "-m", "1024", "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
		"-serial", "stdio", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=",
	}, nil
}
