// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documents returns the Markdown files of the repository by their path from here.
func documents(t *testing.T) map[string]string {
	t.Helper()
	var paths []string
	for _, pattern := range []string{"*.md", "../*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	texts := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(text)
	}
	if len(texts) < 6 {
		t.Fatalf("only %d documents", len(texts))
	}
	return texts
}

var (
	link     = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	mention  = regexp.MustCompile(`\b(docs/[a-z0-9.-]+[a-z0-9]|[A-Z]{4,}\.md)\b`)
	flagName = regexp.MustCompile(`--([a-z][a-z0-9-]+)`)
	helpFlag = regexp.MustCompile(`(?m)^ +(?:-\w, |    )--([a-z][a-z0-9-]+)`)
	command  = regexp.MustCompile(`(?:^|[|;&$(] *|luksgate: *)luksgate ((?:export|serve|config (?:check|example)|ls|add|rm|drain|stats|top|reload|upgrade|inspect|format|resize|flatten|key (?:list|add|remove|change)|header (?:backup|restore|repair)|xml (?:disk|qemu|secret|to-gateway|to-librbd)|attach|detach|doctor|bench(?: (?:compare|record|replay))?|version)\b.*)$`)
)

// Every file that a document links to or mentions is there.
func TestLinks(t *testing.T) {
	for path, text := range documents(t) {
		var targets []string
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			targets = append(targets, filepath.Join(filepath.Dir(path), m[1]))
		}
		for _, m := range mention.FindAllStringSubmatch(text, -1) {
			targets = append(targets, filepath.Join("..", m[1]))
		}
		for _, target := range targets {
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}

// program builds luksgate without Ceph, which has the same flags.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "luksgate")
	cmd := exec.Command("go", "build", "-tags", "noceph", "-o", path, "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// flags returns the flags that a verb's help shows.
func flags(t *testing.T, program, verb string) []string {
	t.Helper()
	out, err := exec.Command(program, append(strings.Fields(verb), "--help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("luksgate %s --help: %v\n%s", verb, err, out)
	}
	var names []string
	for _, m := range helpFlag.FindAllSubmatch(out, -1) {
		if name := string(m[1]); name != "help" {
			names = append(names, name)
		}
	}
	return names
}

var verbs = []string{"export", "serve", "config check", "config example", "ls", "add", "rm", "drain", "stats", "top", "reload", "upgrade", "inspect", "format", "resize", "flatten", "key list", "key add", "key remove", "key change", "header backup", "header restore", "header repair", "xml disk", "xml qemu", "xml secret", "xml to-gateway", "xml to-librbd", "attach", "detach", "doctor", "bench", "bench compare", "bench record", "bench replay", "version"}

// listed finds the verbs in a command's help.
var listed = regexp.MustCompile(`(?m)^  ([a-z-]+) {2,}\S`)

// Every verb of the program is among those that the manual is held against.
func TestAllVerbs(t *testing.T) {
	path := program(t)
	var walk func(verb []string)
	walk = func(verb []string) {
		out, err := exec.Command(path, append(slices.Clone(verb), "--help")...).CombinedOutput()
		if err != nil {
			t.Fatalf("luksgate %v --help: %v\n%s", verb, err, out)
		}
		_, commands, ok := strings.Cut(string(out), "Available Commands:\n")
		commands, _, _ = strings.Cut(commands, "\n\n")
		if name := strings.Join(verb, " "); !ok && !slices.Contains(verbs, name) {
			t.Errorf("luksgate %s is not among the verbs that are checked", name)
		}
		for _, m := range listed.FindAllStringSubmatch(commands, -1) {
			if m[1] != "completion" && m[1] != "help" {
				walk(append(slices.Clone(verb), m[1]))
			}
		}
	}
	walk(nil)
}

// The manual page has every flag of the program, and no other.
func TestManualMatchesProgram(t *testing.T) {
	text, err := os.ReadFile("luksgate.1.md")
	if err != nil {
		t.Fatal(err)
	}
	path := program(t)
	have := map[string]bool{}
	for _, verb := range verbs {
		if !strings.Contains(string(text), "**luksgate "+verb+"**") {
			t.Errorf("the synopsis lacks luksgate %s", verb)
		}
		for _, name := range flags(t, path, verb) {
			have[name] = true
			if !strings.Contains(string(text), "**--"+name+"**") {
				t.Errorf("the manual lacks --%s of luksgate %s", name, verb)
			}
		}
	}
	options := string(text)[strings.Index(string(text), "# OPTIONS"):strings.Index(string(text), "# FILES")]
	for _, m := range flagName.FindAllStringSubmatch(options, -1) {
		if !have[m[1]] {
			t.Errorf("the manual has --%s, the program does not", m[1])
		}
	}
}

// verbOf is the longest verb that a command line begins with.
func verbOf(line string) string {
	best := ""
	for _, v := range verbs {
		if strings.HasPrefix(line+" ", v+" ") && len(v) > len(best) {
			best = v
		}
	}
	return best
}

// The commands in documents use flags that their verb has.
func TestCommandsInDocuments(t *testing.T) {
	path := program(t)
	known := map[string][]string{}
	for _, verb := range verbs {
		known[verb] = flags(t, path, verb)
	}
	checked := 0
	for document, text := range documents(t) {
		for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", " "), "\n") {
			if !strings.HasPrefix(line, "    ") {
				continue
			}
			m := command.FindStringSubmatch(strings.TrimPrefix(strings.TrimSpace(line), "$ "))
			if m == nil {
				continue
			}
			verb := verbOf(m[1])
			for _, f := range flagName.FindAllStringSubmatch(m[1], -1) {
				if !slices.Contains(known[verb], f[1]) {
					t.Errorf("%s: luksgate %s has no --%s: %s", document, verb, f[1], line)
				}
			}
			checked++
		}
	}
	if checked < 8 {
		t.Errorf("only %d commands were found in the documents", checked)
	}
}
