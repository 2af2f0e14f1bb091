// SPDX-License-Identifier: Apache-2.0

// Command _asm writes the assembly kernels of crypt/xts and their Go
// declarations:
//
//	go run -C crypt/xts/_asm . ..
//
// It is a module of its own, so that the generator's libraries are no
// dependencies of luksgate. Script check, beside this file, tells whether the
// files in the tree are what this program writes.
package main

import (
	"log"
	"os"
	"path/filepath"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: _asm FOLDER")
	}
	dir := os.Args[1] // no flags: the library has set up its own
	for _, k := range []amd64Kernel{
		{name: "vaes512", suffix: "VAES512", vectorBytes: 64},
		{name: "vaes256", suffix: "VAES256", vectorBytes: 32},
		{name: "aesni", suffix: "AESNI", vectorBytes: 16},
	} {
		asm, stubs, err := k.generate()
		if err != nil {
			log.Fatalf("kernel %s: %v", k.name, err)
		}
		write(dir, k.name+"_amd64.s", asm)
		write(dir, k.name+"_amd64.go", stubs)
	}
	asm, stubs, err := cpuidFile()
	if err != nil {
		log.Fatalf("cpuid: %v", err)
	}
	write(dir, "cpuid_amd64.s", asm)
	write(dir, "cpuid_amd64.go", stubs)
	asm, stubs = arm64Kernel{}.generate()
	write(dir, "armaes_arm64.s", asm)
	write(dir, "armaes_arm64.go", stubs)
}

func write(dir, name string, content []byte) {
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
		log.Fatal(err)
	}
}
