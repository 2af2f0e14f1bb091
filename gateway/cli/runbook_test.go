// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// A runbook is a page of docs/ whose indented blocks a test runs, so that the page cannot say anything else than what works.
type runbook struct {
	sections map[string][]string // blocks by heading
}

func readRunbook(t *testing.T, name string) *runbook {
	t.Helper()
	r := &runbook{sections: map[string][]string{}}
	heading, block := "", []string(nil)
	flush := func() {
		for len(block) > 0 && block[len(block)-1] == "" {
			block = block[:len(block)-1]
		}
		if len(block) > 0 {
			r.sections[heading] = append(r.sections[heading], dedent(block))
		}
		block = nil
	}
	for line := range strings.Lines(read(t, filepath.Join(testenv.Root(t), "docs", name))) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "    "), line == "" && block != nil:
			block = append(block, line)
			continue
		case strings.HasPrefix(line, "#"):
			flush()
			heading = strings.TrimLeft(line, "# ")
		}
		flush()
	}
	flush()
	return r
}

func dedent(lines []string) string {
	indent := len(lines[0])
	for _, line := range lines {
		if line != "" {
			indent = min(indent, len(line)-len(strings.TrimLeft(line, " ")))
		}
	}
	out := slices.Clone(lines)
	for i, line := range out {
		out[i] = line[min(indent, len(line)):]
	}
	return strings.Join(out, "\n") + "\n"
}

// blocks are those of a section, as many as the test knows what to do with.
func (r *runbook) blocks(t *testing.T, heading string, count int) []string {
	t.Helper()
	found := r.sections[heading]
	if len(found) != count {
		t.Fatalf("section %q has %d blocks, the test knows %d: %q", heading, len(found), count, found)
	}
	return found
}

// shell runs commands in a folder and stops at the first one that fails.
func shell(t *testing.T, dir string, env []string, script string) testenv.Result {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = dir, env
	return testenv.RunCmd(t, cmd)
}
