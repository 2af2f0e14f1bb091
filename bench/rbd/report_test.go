// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func rates(list ...float64) series {
	var s series
	for _, iops := range list {
		s = append(s, sample{iops: iops})
	}
	return s
}

// The ratio is that of neighbours in time: a machine that halves its speed for a while changes nothing.
func TestJudgeComparesWithinARound(t *testing.T) {
	w := workload{goals: map[string]float64{qemuNBD: 2}}
	us, them := rates(200, 100, 210, 90, 190), rates(100, 50, 100, 50, 100)
	if text, ok := judge(w, qemuNBD, us, them); !ok || !strings.HasPrefix(text, "2.00x") {
		t.Errorf("got %q, %v", text, ok)
	}
	if text, ok := judge(w, qemuNBD, us, rates(120, 60, 120, 60, 120)); ok || !strings.Contains(text, "MISSED") {
		t.Errorf("a missed goal: got %q, %v", text, ok)
	}
	if text, ok := judge(w, gateLibrbd, us, them); !ok || strings.Contains(text, "goal") {
		t.Errorf("without a goal: got %q, %v", text, ok)
	}
}

func TestOwnCPUIsJudgedAtSmallRequestsOnly(t *testing.T) {
	by := map[string]series{gateNative: {{serverMicros: 30}}, loopPlain: {{loopMicros: 20}}, qemuNBD: {{serverMicros: 50}}}
	if missed := reportCPU(workload{blockBytes: 4 << 10}, by); missed != 1 {
		t.Errorf("10 us for a 4 KiB request: %d goals missed, want 1", missed)
	}
	if missed := reportCPU(workload{blockBytes: 64 << 10}, by); missed != 0 {
		t.Errorf("10 us for a 64 KiB request: %d goals missed, want 0", missed)
	}
	by[qemuNBD] = series{{serverMicros: 30}}
	if missed := reportCPU(workload{blockBytes: 64 << 10}, by); missed != 1 {
		t.Errorf("no cheaper than a peer: %d goals missed, want 1", missed)
	}
}

func TestParse(t *testing.T) {
	const out = `fio: a warning
{"jobs":[{"error":0,"read":{"iops":0,"total_ios":0},
"write":{"iops":500.5,"total_ios":1000,"lat_ns":{"percentile":{"50.000000":2000}}}}]}`
	got, requests, err := parse([]byte(out), workload{write: true}, 10*time.Millisecond)
	if want := (sample{iops: 500.5, p50Micros: 2, clientMicros: 10}); err != nil || requests != 1000 || got != want {
		t.Errorf("got %+v, %v requests, %v", got, requests, err)
	}
	for name, text := range map[string]string{
		"nothing read": out, "no JSON": "fio: died", "failed": strings.Replace(out, `"error":0`, `"error":5`, 1), "no job": `{"jobs":[]}`,
	} {
		if _, _, err := parse([]byte(text), workload{write: name == "failed"}, 0); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestMedian(t *testing.T) {
	if a, b := median([]float64{3, 1, 2}), median([]float64{4, 1, 3, 2}); a != 2 || b != 2.5 {
		t.Errorf("got %v and %v", a, b)
	}
}

// TestOSDsAreFound takes this process for an OSD.
func TestOSDsAreFound(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CEPH_CONF", filepath.Join(dir, "ceph.conf"))
	if used := osdCPU(); used != 0 {
		t.Errorf("%v used by OSDs of which there are none", used)
	}
	if err := os.WriteFile(filepath.Join(dir, "osd.0.pid"), fmt.Appendln(nil, os.Getpid()), 0o600); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 50*time.Millisecond; { // several ticks of the clock that counts
	}
	if osdCPU() == 0 {
		t.Error("nothing used by a process that has computed")
	}
}
