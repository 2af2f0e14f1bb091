// SPDX-License-Identifier: Apache-2.0

package xts

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestKernelChoice(t *testing.T) {
	names := Kernels()
	if names[len(names)-1] != "portable" {
		t.Errorf("Kernels() = %v does not end in portable", names)
	}
	for _, name := range names {
		if k, err := choose(name); err != nil || k.name != name {
			t.Errorf("%s=%s chooses %v, %v", EnvKernel, name, k, err)
		}
	}
	if k, err := choose(""); err != nil || k.name != names[0] {
		t.Errorf("without %s: %v, %v; want %s", EnvKernel, k, err, names[0])
	}
	for _, name := range []string{"vaes", "AESNI", "portable ", "?"} {
		if _, err := choose(name); err == nil || !strings.Contains(err.Error(), EnvKernel) || !strings.Contains(err.Error(), "portable") {
			t.Errorf("%s=%s gives error %v, want one that names the variable and the choice", EnvKernel, name, err)
		}
	}
}

func TestUnusableKernelIsRefused(t *testing.T) {
	kernels = append(slices.Clone(kernels), &kernel{name: "other"})
	defer func() { kernels = kernels[:len(kernels)-1] }()
	if slices.Contains(Kernels(), "other") {
		t.Error("an unusable kernel is listed")
	}
	if _, err := choose("other"); err == nil || !strings.Contains(err.Error(), "can not run") {
		t.Errorf("an unusable kernel gives error %v", err)
	}
}

// envExpectedKernels names the kernels, separated by commas, that must run where
// the tests are emulated; there is nothing else to compare the detection with.
const envExpectedKernels = "LUKSGATE_TEST_KERNELS"

func TestExpectedKernels(t *testing.T) {
	want := os.Getenv(envExpectedKernels)
	if want == "" {
		t.Skipf("%s is not set", envExpectedKernels)
	}
	if got := strings.Join(Kernels(), ","); got != want {
		t.Errorf("kernels %s run, want %s", got, want)
	}
}

// TestEnvironmentChoosesKernel starts this test again with EnvKernel set.
func TestEnvironmentChoosesKernel(t *testing.T) {
	if value, again := os.LookupEnv(EnvKernel); again && os.Getenv("LUKSGATE_TEST_AGAIN") != "" {
		fmt.Printf("kernel %q\n", Kernel())
		c, err := New(make([]byte, 64), 512)
		if (err == nil) != (KernelError() == nil) {
			t.Errorf("New fails with %v, KernelError is %v", err, KernelError())
		}
		if err == nil {
			c.Release()
		} else {
			fmt.Println(value, "refused:", err)
		}
		return
	}
	again := func(value string) string {
		cmd := exec.Command(os.Args[0], "-test.run=^TestEnvironmentChoosesKernel$")
		cmd.Env = append(os.Environ(), EnvKernel+"="+value, "LUKSGATE_TEST_AGAIN=1")
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.ENOEXEC) {
			t.Skip("this program runs in an emulator")
		}
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	for _, name := range Kernels() {
		if out := again(name); !strings.Contains(out, fmt.Sprintf("kernel %q\n", name)) {
			t.Errorf("%s=%s: %s", EnvKernel, name, out)
		}
	}
	if out := again("nonsense"); !strings.Contains(out, `kernel ""`) || !strings.Contains(out, "nonsense refused: xts: no kernel") {
		t.Errorf("a kernel that does not exist: %s", out)
	}
}
