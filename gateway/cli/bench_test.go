// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/deploy/testenv"
)

// quickBench are flags of a run that takes as little time as one can.
var quickBench = []string{"--rounds", "2", "--seconds", "0.03", "--sizes", "4K,64K", "--size", "4M"}

func bench(t *testing.T, args ...string) testenv.Result {
	t.Helper()
	return luksgate(t, append(append([]string{"bench"}, quickBench...), args...)...)
}

func readBench(t *testing.T, path string) *result.Document {
	t.Helper()
	d, err := readResult(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// checkBench expects rounds of every workload and contestant, with requests and processor time in each.
func checkBench(t *testing.T, d *result.Document, contestants ...string) {
	t.Helper()
	var names []string
	for _, c := range d.Contestants {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, contestants) || !d.Complete || len(d.Results) != len(names)*len(d.Workloads()) {
		t.Fatalf("contestants %v, complete %t, %d results", names, d.Complete, len(d.Results))
	}
	for _, r := range d.Results {
		if len(r.Rounds) != d.Settings.Rounds {
			t.Errorf("%s, %s: %d rounds", r.Workload, r.Contestant, len(r.Rounds))
		}
		for _, x := range r.Rounds {
			if x.Requests == 0 || x.Latency.P50 <= 0 || x.Latency.Max < x.Latency.P50 || len(x.CPU) == 0 || x.CPU[0].Micros <= 0 {
				t.Errorf("%s, %s: %+v", r.Workload, r.Contestant, x)
			}
		}
		if ref := d.Contestant(r.Contestant).Reference; (ref != "" && d.Contestant(ref).Name != "") != (r.Ratio != nil) {
			t.Errorf("%s, %s: reference %q, ratio %v", r.Workload, r.Contestant, ref, r.Ratio)
		}
	}
}

func TestBenchMemory(t *testing.T) {
	dir := t.TempDir()
	json, html := filepath.Join(dir, "r.json"), filepath.Join(dir, "r.html")
	got := bench(t, "mem:4M", "--workloads", "randread,randrw,write", "--clients", "1,2", "--images", "1,2", "--json", json, "--html", html)
	if got.ExitCode != 0 || !strings.Contains(got.Stdout, "nbd-native") || !strings.Contains(got.Stdout, "randrw 64k depth 16") {
		t.Fatal(got)
	}
	d := readBench(t, json)
	checkBench(t, d, "cipher", "plain", "native", "nbd-plain", "nbd-native")
	if n := len(d.Workloads()); n != 3*4 || d.Machine.Processors == 0 || d.Settings.SectorBytes != 4096 {
		t.Errorf("%d workloads on %+v with %+v", n, d.Machine, d.Settings)
	}
	checkPage(t, html, 6)
}

// checkPage has others read the page: it is well-formed, has drawings, and needs nothing from elsewhere.
func checkPage(t *testing.T, path string, drawings int) {
	t.Helper()
	testenv.Tool(t, "xmllint")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// xmllint's parser is of HTML 4 and does not know the elements of HTML 5 and SVG; it says of those that they are invalid.
	for _, line := range strings.Split(testenv.Try(t, "xmllint", "--html", "--noout", path).Stderr, "\n") {
		if strings.Contains(line, "error") && !regexp.MustCompile(`Tag \S+ invalid`).MatchString(line) {
			t.Errorf("xmllint: %s", line)
		}
	}
	for i, svg := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAll(page, -1) {
		file := testenv.WriteFile(t, filepath.Join(t.TempDir(), strconv.Itoa(i)), svg)
		testenv.Run(t, "xmllint", "--noout", file)
	}
	if n := strings.Count(string(page), "<svg"); n < drawings {
		t.Errorf("%d drawings, expected %d", n, drawings)
	}
	for _, place := range regexp.MustCompile(`https?://[^"' <]*`).FindAllString(string(page), -1) {
		if place != "http://www.w3.org/2000/svg" {
			t.Errorf("the page mentions %s", place)
		}
	}
	if strings.Contains(string(page), "<script") || strings.Contains(string(page), "NaN") || strings.Contains(string(page), "ZgotmplZ") {
		t.Error("there is something in the page that should not be")
	}
}

func TestBenchFileWithPeers(t *testing.T) {
	for _, tool := range []string{"qemu-nbd", "nbdkit"} {
		testenv.Tool(t, tool)
	}
	dir := t.TempDir()
	target := testenv.WriteFile(t, filepath.Join(dir, "image"), []byte("mine"))
	json := filepath.Join(t.TempDir(), "r.json")
	got := bench(t, "file:"+target, "--workloads", "randrw", "--luks", "1", "--peers", "all", "--layers", "native,nbd-plain,nbd-native", "--json", json)
	if got.ExitCode != 0 {
		t.Fatal(got)
	}
	checkBench(t, readBench(t, json), "native", "nbd-plain", "nbd-native", "qemu-nbd", "qemu-nbd-luks", "nbdkit-file", "nbdkit-luks")
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != "mine" {
		t.Errorf("the file beside which scratch files were made holds %q, %v", b, err)
	}
}

func TestBenchCompare(t *testing.T) {
	dir := t.TempDir()
	before, after := filepath.Join(dir, "before.json"), filepath.Join(dir, "after.json")
	if got := bench(t, "mem:4M", "--workloads", "randread", "--sizes", "4K", "--rounds", "5", "--layers", "nbd-plain", "--json", before); got.ExitCode != 0 {
		t.Fatal(got)
	}
	if got := luksgate(t, "bench", "compare", before, before); got.ExitCode != 0 || !strings.Contains(got.Stdout, "1.00") {
		t.Errorf("with itself: %v", got)
	}
	d := readBench(t, before)
	for i := range d.Results[0].Rounds {
		d.Results[0].Rounds[i].IOPS /= 1000
	}
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	testenv.WriteFile(t, after, b)
	if got := luksgate(t, "bench", "compare", before, after); got.ExitCode != 1 || !strings.Contains(got.Stdout, "1 worse, 0 better") {
		t.Errorf("a thousand times slower: %v", got)
	}
	if got := luksgate(t, "bench", "compare", after, before); got.ExitCode != 0 || !strings.Contains(got.Stdout, "0 worse, 1 better") {
		t.Errorf("a thousand times faster: %v", got)
	}
	if got := luksgate(t, "bench", "compare", before, os.Args[0]); got.ExitCode != 1 || !strings.Contains(got.Stderr, "not a result") {
		t.Errorf("with a program: %v", got)
	}
}

func TestBenchMisuse(t *testing.T) {
	g := export(t, "mem:1M")
	defer g.stop(t)
	for _, c := range []struct {
		want string
		args []string
	}{
		{"accepts 1 arg", nil},
		{"expected rbd:", []string{"nothing"}},
		{"--layers", []string{"mem:4M", "--layers", "librbd"}},
		{"--against", []string{"mem:4M", "--against", "librbd"}},
		{"--peers", []string{"mem:4M", "--peers", "hare"}},
		{"--workloads", []string{"mem:4M", "--workloads", "walk"}},
		{"--depths", []string{"mem:4M", "--depths", "0"}},
		{"too few", []string{"mem:1K"}},
		{"snapshot", []string{"rbd:pool/image@snap"}},
		{"--overwrite", []string{g.uri, "--workloads", "randwrite"}},
		{"--layers", []string{g.uri, "--layers", "native"}},
		{"--by", []string{"compare", "a", "b", "--by", "name"}},
		{"--threshold", []string{"compare", "a", "b", "--threshold", "0"}},
	} {
		if got := luksgate(t, append([]string{"bench"}, c.args...)...); got.ExitCode != exitUsage || !strings.Contains(got.Stderr, c.want) {
			t.Errorf("bench %v: expected exit code 2 and %q, got %v", c.args, c.want, got)
		}
	}
	if got := bench(t, "mem:4M", "--json", filepath.Join(t.TempDir(), "no", "folder")); got.ExitCode != 1 || strings.Contains(got.Stderr, "Measuring") {
		t.Errorf("a report that cannot be written is found after the run: %v", got)
	}
}

// TestRecordAndReplay records what fills an export, and replays it on two others.
func TestRecordAndReplay(t *testing.T) {
	testenv.Tool(t, "nbdcopy")
	dir := t.TempDir()
	trace := filepath.Join(dir, "t")
	image := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 8<<20)})
	g := export(t, "file:"+image.Path, "--key-file", image.PassphrasePath, "--record", trace)
	if got := bench(t, g.uri, "--overwrite", "--workloads", "rw,randwrite", "--rounds", "1"); got.ExitCode != 0 {
		t.Fatal(got)
	}
	g.stop(t)
	var contents [2][]byte
	for i, more := range [][]string{{"--depth", "1"}, {"--depth", "16", "--connections", "3"}} {
		g := export(t, "mem:8M")
		args := append([]string{"bench", "replay", trace, g.uri}, more...)
		if got := luksgate(t, args...); got.ExitCode != exitUsage || !strings.Contains(got.Stderr, "--overwrite") {
			t.Errorf("without consent: %v", got)
		}
		figures := filepath.Join(dir, "f.json")
		if got := luksgate(t, append(args, "--overwrite", "--json", figures)...); got.ExitCode != 0 || !strings.Contains(got.Stdout, "write") {
			t.Fatal(got)
		}
		checkFigures(t, figures)
		copied := filepath.Join(dir, strconv.Itoa(i))
		testenv.Run(t, "nbdcopy", g.uri, copied)
		g.stop(t)
		var err error
		if contents[i], err = os.ReadFile(copied); err != nil {
			t.Fatal(err)
		}
	}
	if string(contents[0]) != string(contents[1]) || strings.Count(string(contents[0]), "\x00") > 4<<20 {
		t.Error("one at a time and many at a time leave different bytes")
	}
	if got := luksgate(t, "bench", "replay", trace, "mem:8M", "--layers", "nbd-plain,nbd-native"); got.ExitCode != 0 || strings.Count(got.Stdout, "requests in") != 2 {
		t.Errorf("on scratch images: %v", got)
	}
	if got := luksgate(t, "export", "mem:1M", "--socket", filepath.Join(dir, "s"), "--record", trace); got.ExitCode != 1 {
		t.Errorf("over a trace that is there: %v", got)
	}
}

func checkFigures(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Schema  string
		Version int
		Replays []struct {
			Requests uint64
			Counts   map[string]uint64
		}
	}
	if err := json.Unmarshal(b, &d); err != nil || d.Schema != "luksgate-replay" || d.Version != 1 || len(d.Replays) != 1 ||
		d.Replays[0].Requests == 0 || d.Replays[0].Counts["write"] == 0 {
		t.Errorf("%v, %+v", err, d)
	}
}

// TestBenchKilled: without its parent neither the gateway nor another program stays.
func TestBenchKilled(t *testing.T) {
	testenv.Tool(t, "qemu-nbd")
	cmd := command("bench", "mem:4M", "--layers", "nbd-native", "--peers", "qemu-nbd", "--seconds", "20")
	cmd.Env = append(cmd.Env, "TMPDIR="+testenv.SocketDir(t)) // its folder stays
	p := testenv.StartCmd(t, cmd)
	waitFor(t, p, "Measuring")
	children := childrenOf(t, p.PID())
	if len(children) != 2 {
		t.Errorf("%d children, expected a gateway and qemu-nbd", len(children))
	}
	p.Signal(syscall.SIGKILL)
	p.Wait()
	for end := time.Now().Add(testenv.CommandTimeout); len(children) > 0; time.Sleep(10 * time.Millisecond) {
		children = slices.DeleteFunc(children, func(pid int) bool { return parentOf(pid) < 0 })
		if time.Now().After(end) {
			t.Fatalf("processes %v are still there", children)
		}
	}
}

// waitFor waits until the process has said something on any stream.
func waitFor(t *testing.T, p *testenv.Process, text string) {
	t.Helper()
	for end := time.Now().Add(testenv.CommandTimeout); !strings.Contains(p.Output(), text); time.Sleep(10 * time.Millisecond) {
		if !p.Running() || time.Now().After(end) {
			t.Fatalf("it never said %q\n%s", text, p.Output())
		}
	}
}

// childrenOf are the processes that a process started.
func childrenOf(t *testing.T, parent int) []int {
	t.Helper()
	var children []int
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if pid, err := strconv.Atoi(d.Name()); err == nil && parentOf(pid) == parent {
			children = append(children, pid)
		}
	}
	return children
}

// parentOf is -1 of a process that is not there, or ended.
func parentOf(pid int) int {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return -1
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // state, parent, ...
	parent, err := strconv.Atoi(fields[1])
	if err != nil || fields[0] == "Z" {
		return -1
	}
	return parent
}
