// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/luksgate/luksgate/bench/guest/measure"
	"github.com/luksgate/luksgate/deploy/guest/initrd"
)

// modules of the guest besides those that every guest has, in the order in which they load.
var modules = []string{
	"nbd", "failover", "net_failover", "virtio_net", "cryptd", "crypto_simd", "aesni-intel", "xts", "dm-mod", "dm-crypt",
}

// files writes the guest's first file system and returns it and the kernel.
func (o *options) files(ctx context.Context, key []byte) (packed, kernel string, err error) {
	guest, err := output(ctx, "deploy/guest/guest", "dir")
	if err != nil {
		return "", "", err
	}
	kernel = filepath.Join(guest, "vmlinuz")
	if _, err := os.Stat(filepath.Join(guest, "rbd-nbd")); err != nil {
		return "", "", fmt.Errorf("there is no guest: get it with deploy/guest/guest make (%w)", err)
	}
	files := map[string]string{"init": filepath.Join(o.dir, "init")}
	build := exec.CommandContext(ctx, "go", "build", "-tags", "noceph", "-o", files["init"], "./bench/guest/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("build the guest's program: %w\n%s", err, out)
	}
	always, err := filepath.Glob(filepath.Join(guest, "modules", "*.ko"))
	if err != nil {
		return "", "", err
	}
	for _, path := range always {
		files["modules/"+filepath.Base(path)] = path
	}
	for i, name := range modules {
		files[fmt.Sprintf("modules/%d-%s.ko", 50+i, name)] = filepath.Join(guest, name+".ko")
	}
	if err := o.programs(ctx, files, filepath.Join(guest, "rbd-nbd")); err != nil {
		return "", "", err
	}
	if err := o.settings(ctx, files, key); err != nil {
		return "", "", err
	}
	content, err := initrd.Pack(files)
	if err != nil {
		return "", "", err
	}
	packed = filepath.Join(o.dir, "initrd")
	return packed, kernel, os.WriteFile(packed, content, 0o600)
}

// programs adds what the guest runs, and the libraries of all that.
func (o *options) programs(ctx context.Context, files map[string]string, rbdNBD string) error {
	paths := []string{o.program, rbdNBD}
	for _, name := range []string{"cryptsetup", "ip"} {
		path, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		paths = append(paths, path)
	}
	for _, path := range paths {
		files["bin/"+filepath.Base(path)] = path
		libraries, err := output(ctx, "ldd", path)
		if err != nil {
			return err
		}
		for _, word := range strings.Fields(libraries) {
			if filepath.IsAbs(word) {
				files[word[1:]] = word
			}
		}
	}
	return nil
}

// settings adds the plan, the passphrase, and how to reach the cluster: all under the names that they have here.
func (o *options) settings(ctx context.Context, files map[string]string, key []byte) error {
	keyring, err := output(ctx, "ceph-conf", "-c", o.plan.Conf, "--name", "client.admin", "--lookup", "keyring")
	if err != nil {
		return err
	}
	conf, err := os.ReadFile(o.plan.Conf)
	if err != nil {
		return err
	}
	// As everywhere in these benchmarks, nobody has librbd's cache.
	conf = append(conf, "\n[client]\nrbd_cache = false\nlog_file =\n"...)
	for name, content := range map[string][]byte{"plan": o.plan.JSON(), "key": key, "conf": conf} {
		if err := os.WriteFile(filepath.Join(o.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	files[measure.PlanPath[1:]] = filepath.Join(o.dir, "plan")
	files[measure.KeyPath[1:]] = filepath.Join(o.dir, "key")
	files[o.plan.Conf[1:]] = filepath.Join(o.dir, "conf")
	files[keyring[1:]] = keyring
	return nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %v: %w", name, args, err)
	}
	return strings.TrimSpace(string(out)), nil
}
