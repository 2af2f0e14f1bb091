// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// aesniOnly is the value of OPENSSL_ia32cap that takes VAES and VPCLMULQDQ
// (leaf 7 ECX, bits 9 and 10) and AVX-512 F (leaf 7 EBX, bit 16) from OpenSSL.
const aesniOnly = ":~0x60000010000"

// opensslSpeed returns the bytes a second of "openssl speed" for AES-XTS in
// units of unitBytes. restrict is a value of OPENSSL_ia32cap, "" for none.
func opensslSpeed(keyBits, unitBytes int, decrypt bool, restrict string) (float64, error) {
	args := []string{"speed", "-elapsed", "-mr", "-seconds", "1", "-bytes", strconv.Itoa(unitBytes)}
	if decrypt {
		args = append(args, "-decrypt")
	}
	cmd := exec.Command("openssl", append(args, "-evp", fmt.Sprintf("aes-%d-xts", keyBits))...)
	cmd.Env = os.Environ()
	if restrict != "" {
		cmd.Env = append(cmd.Env, "OPENSSL_ia32cap="+restrict)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", cmd, err, stderr.Bytes())
	}
	// +F:22:AES-256-XTS:8053538816.00
	for line := range strings.Lines(string(out)) {
		if fields := strings.Split(strings.TrimSpace(line), ":"); fields[0] == "+F" && len(fields) == 4 {
			return strconv.ParseFloat(fields[3], 64)
		}
	}
	return 0, fmt.Errorf("%s printed no figure: %q", cmd, out)
}

// opensslVersion returns what "openssl version" says.
func opensslVersion() string {
	out, err := exec.Command("openssl", "version").Output()
	if err != nil {
		return "openssl: " + err.Error()
	}
	return strings.TrimSpace(string(out))
}

// cryptsetup prints cryptsetup's own benchmark of the same cipher, which needs
// the crypto interface of the Linux kernel.
func cryptsetup(keyBits int) {
	fmt.Println("\ncryptsetup benchmark, MiB a second:")
	out, err := exec.Command("cryptsetup", "benchmark", "--cipher", "aes-xts-plain64",
		"--key-size", strconv.Itoa(2*keyBits)).CombinedOutput()
	if err != nil {
		fmt.Printf("  not available here: %v: %s\n", err, bytes.TrimSpace(out))
		return
	}
	for line := range strings.Lines(string(out)) {
		fmt.Print("  ", line)
	}
}

// processorName is the model name that Linux gives.
func processorName() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		if _, after, ok := strings.Cut(string(text), "model name"); ok {
			name, _, _ := strings.Cut(after, "\n")
			return strings.Trim(name, " \t:")
		}
	}
	return "unknown processor"
}
