// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// What "make soak" sets: the seed, and for how long one chain after the other is tried, such as 30m.
const (
	envSoakSeed = "LUKSGATE_SOAK_SEED"
	envSoakTime = "LUKSGATE_SOAK_TIME"
)

// soakSteps is how many requests each chain gets at least, and soakRound how many of them without a reopening, where
// nothing else happens.
const (
	soakSteps = 4000
	soakRound = 400
)

// soakSeed is a seed, or the one that was set to try a chain again.
func soakSeed(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv(envSoakSeed)
	if s == "" {
		return rand.Uint64() >> 1
	}
	seed, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

// soakOrder is all of soakShapes in an order that stays.
func soakOrder() []string { return slices.Sorted(maps.Keys(soakShapes)) }

// soakChain makes a chain and tries its last image until it has seen so many requests.
func soakChain(t *testing.T, s site, shape string, steps, round int) {
	t.Helper()
	start := time.Now()
	k := newSoak(t, s, shape, soakSeed(t))
	for k.did.steps < steps {
		k.round(round)
	}
	k.end()
	t.Logf("chain %s: %v, in %v", shape, k.did, time.Since(start).Round(time.Second))
}

// soakAll tries all chains, beside each other as far as tests may be.
func soakAll(t *testing.T, s site) {
	t.Helper()
	for _, shape := range soakOrder() {
		t.Run(shape, func(t *testing.T) {
			t.Parallel()
			soakChain(t, s, shape, soakSteps, soakRound)
		})
	}
}

// TestSoakShort works on three kinds of chains for a short while.
func TestSoakShort(t *testing.T) {
	testenv.CephConf(t)
	s := newHere(t)
	for _, shape := range []string{"c2", "d2", "e1"} {
		t.Run(shape, func(t *testing.T) { soakChain(t, s, shape, 300, 60) })
	}
}

// reefSoak works on all chains with the librbd of Ceph 18, which writes them too, in turn with the native engine.
func reefSoak(t *testing.T, r *reef) { soakAll(t, inside{r}) }

// TestSoak is the same with Ceph 16, whose librbd cannot write most of them.
func TestSoak(t *testing.T) {
	testenv.Long(t)
	testenv.CephConf(t)
	t.Parallel() // much of it is waiting
	soakAll(t, newHere(t))
}

// TestSoakForTime goes on with all chains for as long as it is told, on the cluster that is there and, where the chroot can
// be had, with Ceph 18.
func TestSoakForTime(t *testing.T) {
	limit, err := time.ParseDuration(os.Getenv(envSoakTime))
	if err != nil {
		t.Skipf("NOT RUN: %s does not say for how long (make soak does)", envSoakTime)
	}
	testenv.CephConf(t)
	end := time.Now().Add(limit)
	for _, version := range []struct {
		name string
		site func(t *testing.T) site
	}{
		{"here", func(t *testing.T) site { return newHere(t) }},
		{"inside", func(t *testing.T) site { return inside{newReef(t)} }},
	} {
		t.Run(version.name, func(t *testing.T) {
			t.Parallel()
			s := version.site(t)
			for pass := 0; time.Now().Before(end) && !t.Failed(); pass++ {
				for _, shape := range soakOrder() {
					if time.Now().After(end) {
						return
					}
					t.Run(fmt.Sprintf("%s-%d", shape, pass), func(t *testing.T) { soakChain(t, s, shape, soakSteps, soakRound) })
				}
			}
		})
	}
}
