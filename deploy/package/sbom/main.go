// SPDX-License-Identifier: Apache-2.0

// Sbom writes what is in a package as a CycloneDX document: the Go modules and the Go that a program says it was built
// from, and libraries of Debian that lie beside it. The same input gives the same bytes.
package main

import (
	"bufio"
	"debug/buildinfo"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// options are the command line.
type options struct {
	name, version string
	program       string
	debian        string // a list: PACKAGE VERSION SOURCE SOURCE-VERSION
	time          string // @SECONDS
}

func main() {
	var o options
	flag.StringVar(&o.name, "name", "luksgate", "`name` of the package")
	flag.StringVar(&o.version, "version", "", "`version` of the package")
	flag.StringVar(&o.program, "program", "", "the Go `program`")
	flag.StringVar(&o.debian, "debian", "", "`file` with lines PACKAGE VERSION SOURCE SOURCE-VERSION")
	flag.StringVar(&o.time, "time", "@0", "when the package was made, as `@SECONDS` since 1970")
	flag.Parse()
	if err := run(o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(o options, out io.Writer) error {
	seconds, err := strconv.ParseInt(strings.TrimPrefix(o.time, "@"), 10, 64)
	if err != nil {
		return fmt.Errorf("-time %q: want @SECONDS", o.time)
	}
	info, err := buildinfo.ReadFile(o.program)
	if err != nil {
		return err
	}
	parts := goComponents(info)
	if o.debian != "" {
		file, err := os.Open(o.debian)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		libraries, err := debianComponents(file)
		if err != nil {
			return fmt.Errorf("%s: %w", o.debian, err)
		}
		parts = append(parts, libraries...)
	}
	d := newDocument(o.name, o.version, time.Unix(seconds, 0), info, parts)
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(d)
}

// goComponents are the modules that a program consists of, without its own, and the standard library.
func goComponents(info *buildinfo.BuildInfo) []component {
	version := strings.TrimPrefix(info.GoVersion, "go")
	out := []component{newComponent("library", "stdlib", version, "pkg:golang/stdlib@"+version)}
	for _, m := range info.Deps {
		path, sum := m.Path, m.Sum
		if m.Replace != nil {
			m, sum = m.Replace, m.Replace.Sum
		}
		c := newComponent("library", path, m.Version, "pkg:golang/"+m.Path+"@"+url.PathEscape(m.Version))
		if sum != "" {
			c.Properties = []property{{"go:sum", sum}}
		}
		out = append(out, c)
	}
	return out
}

// debianComponents reads PACKAGE VERSION SOURCE SOURCE-VERSION a line.
func debianComponents(r io.Reader) ([]component, error) {
	var out []component
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 4 {
			return nil, fmt.Errorf("%q: want PACKAGE VERSION SOURCE SOURCE-VERSION", lines.Text())
		}
		c := newComponent("library", f[0], f[1], "pkg:deb/debian/"+f[0]+"@"+purlVersion(f[1])+"?arch=amd64")
		c.Properties = []property{{"debian:source", f[2]}, {"debian:source-version", f[3]}}
		out = append(out, c)
	}
	return out, lines.Err()
}

// purlVersion escapes what a package URL does not hold as it is.
func purlVersion(version string) string {
	return strings.ReplaceAll(url.PathEscape(version), "+", "%2B")
}
