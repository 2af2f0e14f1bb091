// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/luksgate/luksgate"

// A layer may import, directly, only packages with one of these prefixes, besides the standard library and itself.
// The first rule whose prefix fits a package is the package's. ARCHITECTURE.md draws the same.
var importRules = []struct {
	layer string
	may   []string
}{
	{"crypt/secret", []string{"golang.org/x/sys"}},
	{"crypt/xts", []string{"crypt/secret", "golang.org/x/sys"}},
	{"crypt/workers", nil},
	{"crypt/volume", []string{"crypt/workers"}},
	{"crypt", []string{"crypt/secret", "crypt/xts", "golang.org/x/crypto", "golang.org/x/sys", "github.com/jzelinskie/whirlpool"}},
	{"nbdserver", []string{"golang.org/x/sys", "github.com/pojntfx/go-nbd"}},
	{"attach/virt", []string{"attach", "github.com/digitalocean/go-libvirt"}},
	{"attach/plug", []string{"attach", "libvirt.org/go/libvirtxml"}},
	{"attach", []string{"libvirt.org/go/libvirtxml", "gopkg.in/yaml.v3", "go.yaml.in/yaml"}},
	{"gateway/image/mem", []string{"crypt/volume", "nbdserver/blocks"}},
	{"gateway/image", []string{"gateway/image", "crypt/volume", "crypt/secret", "golang.org/x/sys", "github.com/ceph/go-ceph"}},
	{"gateway/layered", nil},
	{"gateway/key/vault", []string{"gateway/key", "crypt/secret", "github.com/openbao/openbao/api"}},
	{"gateway/key/barbican", []string{"gateway/key", "crypt/secret", "github.com/gophercloud/gophercloud"}},
	{"gateway/key/libvirt", []string{"gateway/key", "crypt/secret", "github.com/digitalocean/go-libvirt"}},
	{"gateway/key", []string{"crypt/secret", "golang.org/x/term"}},
	{"gateway/access", []string{"gateway/image", "nbdserver"}},
	{"gateway/config", []string{"gateway/access", "gateway/image", "go.yaml.in/yaml"}},
	{"gateway/metrics", []string{"nbdserver", "github.com/prometheus/client_golang"}},
	{"gateway/daemon", []string{"gateway", "bench/trace", "crypt", "nbdserver", "golang.org/x/sys", "go.yaml.in/yaml", "github.com/prometheus/client_golang"}},
	{"gateway/blockdev", []string{"nbdserver/client", "nbdserver/wire", "github.com/pojntfx/go-nbd", "golang.org/x/sys"}},
	{"gateway/doctor", []string{"attach", "crypt/xts", "gateway/image", "golang.org/x/sys"}},
	{"gateway/cli", []string{"gateway", "attach", "crypt", "nbdserver", "bench", "github.com/spf13", "github.com/schollz/progressbar", "golang.org/x/term", "golang.org/x/sys"}},
	{"gateway", []string{"gateway/image", "gateway/key", "gateway/layered", "crypt", "nbdserver", "golang.org/x/sys"}},
	{"deploy/testenv", []string{"deploy/guest"}},
	{"deploy/guest", []string{"golang.org/x/sys"}},
	{"deploy", []string{"deploy/testenv"}},
	{"bench", []string{"crypt", "nbdserver", "gateway", "deploy/testenv", "deploy/guest", "golang.org/x", "github.com/pojntfx/go-nbd"}},
	{"", []string{"gateway/cli"}},
}

// Packages of the standard library that only some layers may use.
var restricted = map[string][]string{
	"os/exec": {"bench", "deploy", "gateway/key/command", "gateway/daemon"},
	"unsafe":  {"crypt/xts", "crypt/secret", "nbdserver/buffer", "nbdserver", "gateway/image/rbd", "deploy/guest"},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

// TestImports holds every package's imports against the rules, in the build with Ceph and in the one without.
func TestImports(t *testing.T) {
	for _, tags := range []string{"", "noceph"} {
		for _, p := range listPackages(t, tags) {
			checkImports(t, p)
		}
	}
}

func listPackages(t *testing.T, tags string) []pkg {
	args := []string{"list", "-json=ImportPath,Imports,Standard"}
	if tags != "" {
		args = append(args, "-tags", tags)
	}
	cmd := exec.Command("go", append(args, "./...")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []pkg
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func checkImports(t *testing.T, p pkg) {
	name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
	i := slices.IndexFunc(importRules, func(r struct {
		layer string
		may   []string
	}) bool {
		return within(name, r.layer)
	})
	layer, may := importRules[i].layer, importRules[i].may
	for _, imported := range p.Imports {
		local, isLocal := strings.CutPrefix(imported, module+"/")
		if !isLocal && !strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") {
			if where, ok := restricted[imported]; ok && !anyWithin(name, where) {
				t.Errorf("%s imports %s, which only %v may", name, imported, where)
			}
			continue
		}
		if layer != "" && isLocal && within(local, layer) || anyWithin(local, may) {
			continue
		}
		t.Errorf("%s imports %s; packages of %q may import %v", name, imported, layer, may)
	}
}

func anyWithin(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return within(name, p) })
}

// within tells whether a package is prefix or lies below it; everything lies below "".
func within(name, prefix string) bool {
	return prefix == "" || name == prefix || strings.HasPrefix(name, prefix+"/")
}
