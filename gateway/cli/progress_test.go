// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// TestProgressBar shrinks and flattens a clone with a key of its own at a terminal: what takes a while has a bar, which gets
// full, fits on one line and leaves the next one to the result. Where standard error is no terminal there is no bar.
func TestProgressBar(t *testing.T) {
	testenv.CephConf(t)
	g := newGolden(t, "luks1", 26, 24, "--object-size", "64K")
	key := g.key(t, "own")
	for _, terminal := range []bool{true, false} {
		spec := g.clone(t, "--object-size", "64K")
		good(t, formatClone(spec, "luks1", key)...)
		l := level{spec: spec, keys: []string{key, g.keys[0]}}
		for _, c := range []struct {
			args   []string
			result string
		}{
			{[]string{"resize", "12M", "--allow-shrink"}, "rbd:" + spec + ": 12 MiB"},
			{[]string{"flatten"}, "rbd:" + spec + " no longer needs rbd:" + g.spec},
		} {
			args := append(append([]string{c.args[0]}, l.args()...), c.args[1:]...)
			if terminal {
				seesBars(t, atTerminal(t, args...).ends(exitOK), c.result)
				continue
			}
			r := luksgate(t, args...)
			if r.ExitCode != exitOK || r.Stderr != "" || strings.Count(r.Stdout, "\n") != 1 || !strings.HasPrefix(r.Stdout, c.result) {
				t.Errorf("without a terminal: %s", r)
			}
		}
	}
}

// seesBars looks at what was to be seen at a terminal: a bar, or several, and the result.
func seesBars(t *testing.T, screen, result string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(screen, "\r\n"), "\r\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, result) {
		t.Errorf("want %q on a line of its own, there is %q", result, last)
	}
	bars := lines[:len(lines)-1]
	if len(bars) == 0 || !strings.HasPrefix(strings.TrimLeft(bars[0], "\r "), "copy up ") {
		t.Fatalf("there is no bar:\n%q", screen)
	}
	escape := regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")
	for _, bar := range bars {
		// It is drawn over and over, from the beginning of its line.
		drawn := strings.Split(escape.ReplaceAllString(bar, ""), "\r")
		for _, d := range drawn {
			if n := utf8.RuneCountInString(d); n > terminalColumns {
				t.Errorf("a bar of %d columns: %q", n, d)
			}
		}
		last := strings.TrimSpace(drawn[len(drawn)-1])
		if !regexp.MustCompile(`^(copy up|object map|resize|flatten) 100% `).MatchString(last) {
			t.Errorf("want a bar that is full, there is %q", last)
		}
	}
}
