// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/aes"
	"fmt"
	"time"

	stdxts "golang.org/x/crypto/xts"

	"github.com/luksgate/luksgate/crypt/xts"
)

// runBytes is what one call gets in the "run" columns: a request of usual size.
const runBytes = 64 << 10

// goals are the least ratios of runs to openssl that the project asks for.
// aesni is compared with an openssl restricted to AES-NI, and its goal is the
// same for all units.
var goals = map[string]map[int]float64{
	"vaes512": {512: 1.5, 4096: 1.7},
	"aesni":   {512: 0.95, 4096: 0.95},
}

// subject is one implementation at one unit size and direction.
type subject struct {
	name         string
	run          func() // runBytes in one call, in place
	unit         func() // one unit in one call; a run is the same if nil
	rate, ratio, // of run: GB a second, and to openssl; one a turn
	unitRatio []float64 // of unit
}

// kernelTable compares all implementations.
func kernelTable(rounds int, turn time.Duration, keyBits int) (missed int, err error) {
	fmt.Printf("\nAES-%d-XTS on one core, GB/s (10^9 bytes); ratios to %s\n", keyBits, opensslVersion())
	fmt.Printf("\"run\": %d KiB in one call, in place; \"one\": one unit a call, as openssl does it\n", runBytes>>10)
	for _, unitBytes := range []int{512, 4096} {
		for _, decrypt := range []bool{false, true} {
			n, err := compare(rounds, turn, keyBits, unitBytes, decrypt)
			if err != nil {
				return missed, err
			}
			missed += n
		}
	}
	return missed, nil
}

// compare measures and prints one unit size and direction.
func compare(rounds int, turn time.Duration, keyBits, unitBytes int, decrypt bool) (missed int, err error) {
	subjects, release, err := makeSubjects(keyBits, unitBytes, decrypt)
	if err != nil {
		return 0, err
	}
	defer release()
	var openssl, restricted []float64
	for range rounds {
		full, err := opensslSpeed(keyBits, unitBytes, decrypt, "")
		if err != nil {
			return 0, err
		}
		limited, err := opensslSpeed(keyBits, unitBytes, decrypt, aesniOnly)
		if err != nil {
			return 0, err
		}
		openssl, restricted = append(openssl, full/1e9), append(restricted, limited/1e9)
		for _, s := range subjects {
			base := full
			if s.name == "aesni" {
				base = limited
			}
			s.measure(turn, unitBytes, base)
		}
	}
	verb := "encrypt"
	if decrypt {
		verb = "decrypt"
	}
	fmt.Printf("\n%-5d %s         run     ratio   one: ratio   goal\n", unitBytes, verb)
	fmt.Printf("  %-18s %6.2f\n  %-18s %6.2f\n", "openssl", median(openssl), "openssl, no VAES", median(restricted))
	for _, s := range subjects {
		missed += s.print(unitBytes)
	}
	return missed, nil
}

// measure adds one turn; base is openssl's bytes a second.
func (s *subject) measure(turn time.Duration, unitBytes int, base float64) {
	rate := bytesPerSecond(turn, runBytes, s.run)
	s.rate, s.ratio = append(s.rate, rate/1e9), append(s.ratio, rate/base)
	s.unitRatio = append(s.unitRatio, bytesPerSecond(turn, unitBytes, s.unit)/base)
}

func (s *subject) print(unitBytes int) (missed int) {
	fmt.Printf("  %-18s %6.2f  %6.2fx      %6.2fx", s.name, median(s.rate), median(s.ratio), median(s.unitRatio))
	if goal, ok := goals[s.name][unitBytes]; ok {
		verdict := "met"
		if median(s.ratio) < goal {
			verdict, missed = "MISSED", 1
		}
		fmt.Printf("   %.2fx %s", goal, verdict)
	}
	fmt.Println()
	return missed
}

// makeSubjects returns every kernel and x/crypto/xts.
func makeSubjects(keyBits, unitBytes int, decrypt bool) (subjects []*subject, release func(), err error) {
	key := make([]byte, keyBits/4)
	for i := range key {
		key[i] = byte(i)
	}
	buf := make([]byte, runBytes)
	var ciphers []*xts.Cipher
	release = func() {
		for _, c := range ciphers {
			c.Release()
		}
	}
	for _, name := range xts.Kernels() {
		c, err := xts.NewWithKernel(name, key, unitBytes)
		if err != nil {
			release()
			return nil, nil, err
		}
		ciphers = append(ciphers, c)
		crypt := c.Encrypt
		if decrypt {
			crypt = c.Decrypt
		}
		one := buf[:unitBytes]
		subjects = append(subjects, &subject{name: name,
			run: func() { crypt(buf, buf, 0) }, unit: func() { crypt(one, one, 0) }})
	}
	std, err := stdxts.NewCipher(aes.NewCipher, key)
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("x/crypto/xts: %w", err)
	}
	crypt := std.Encrypt
	if decrypt {
		crypt = std.Decrypt
	}
	unit := func() { crypt(buf[:unitBytes], buf[:unitBytes], 0) }
	run := func() {
		for at := 0; at < runBytes; at += unitBytes {
			crypt(buf[at:at+unitBytes], buf[at:at+unitBytes], uint64(at/unitBytes))
		}
	}
	return append(subjects, &subject{name: "x/crypto/xts", run: run, unit: unit}), release, nil
}
