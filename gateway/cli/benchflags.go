// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/bench/engine"
	"github.com/luksgate/luksgate/bench/lab"
	"github.com/luksgate/luksgate/bench/nbdclient"
	"github.com/luksgate/luksgate/bench/peers"
	benchreport "github.com/luksgate/luksgate/bench/report"
	"github.com/luksgate/luksgate/bench/result"
	"github.com/luksgate/luksgate/bench/workload"
	"github.com/luksgate/luksgate/gateway/image"
)

// matrixFlags choose workloads.
type matrixFlags struct {
	fs                      *pflag.FlagSet
	full                    bool
	kinds, sizes            []string
	depths, clients, images []int
}

func (f *matrixFlags) add(fs *pflag.FlagSet) {
	f.fs = fs
	fs.BoolVar(&f.full, "full", false, "measure everything: all workloads, sizes and depths, up to 8 clients and 16 images; lists that are given go over it")
	fs.StringSliceVar(&f.kinds, "workloads", nil,
		"randread, randwrite, randrw, read, write, rw; rw is 70 % reads (default randread,randwrite)")
	fs.StringSliceVar(&f.sizes, "sizes", nil, "sizes of requests (default 4K,16K,64K,1M)")
	fs.IntSliceVar(&f.depths, "depths", nil, "requests that each client keeps in flight (default 16)")
	fs.IntSliceVar(&f.clients, "clients", nil, "clients of each image, over NBD connections (default 1)")
	fs.IntSliceVar(&f.images, "images", nil, "images (default 1)")
}

// given tells whether a flag was on the command line.
func (f *matrixFlags) given(name string) bool { return f.fs != nil && f.fs.Changed(name) }

// matrix is the choice, checked.
func (f *matrixFlags) matrix() (workload.Matrix, error) {
	m := workload.Quick
	if f.full {
		m = workload.Full
	}
	if f.given("workloads") {
		m.Kinds = nil
		for _, k := range f.kinds {
			m.Kinds = append(m.Kinds, workload.Kind(k))
		}
	}
	if f.given("sizes") {
		m.BlocksBytes = nil
		for _, text := range f.sizes {
			n, err := image.ParseSize(text)
			if err != nil {
				return m, usage("--sizes: %v", err)
			}
			m.BlocksBytes = append(m.BlocksBytes, int(n))
		}
	}
	for name, to := range map[string]struct{ list, given *[]int }{
		"depths": {&m.Depths, &f.depths}, "clients": {&m.Clients, &f.clients}, "images": {&m.Images, &f.images},
	} {
		if f.given(name) {
			*to.list = *to.given
		}
	}
	if err := m.Check(); err != nil {
		return m, usage("%v", err)
	}
	return m, nil
}

// largestBlock is the largest request that is asked for.
func (f *matrixFlags) largestBlock() int {
	m, err := f.matrix()
	if err != nil {
		return 0
	}
	return slices.Max(m.BlocksBytes)
}

// checkLayers refuses what the scheme cannot have.
func (f *benchFlags) checkLayers(o *lab.Options) error {
	known := lab.Layers(o.Target.Scheme)
	for _, name := range o.Layers {
		if !slices.Contains(known, name) {
			return usage("--layers %q: %s can have %v", name, o.Target, known)
		}
	}
	if engines := []string{lab.Plain, lab.Native, lab.Librbd}; !slices.Contains(engines, o.Against) || !slices.Contains(known, o.Against) {
		return usage("--against %q: expected one of the engines that %s can have: plain, native, or librbd for rbd: images", o.Against, o.Target)
	}
	return nil
}

// choosePeers are the programs that --peers names.
func choosePeers(names []string, scheme image.Scheme) ([]lab.Peer, error) {
	all := peers.For(scheme)
	if len(names) == 1 && names[0] == "all" {
		return all, nil
	}
	var chosen []lab.Peer
	for _, name := range names {
		i := slices.IndexFunc(all, func(p lab.Peer) bool { return p.Name() == name })
		if i < 0 {
			var known []string
			for _, p := range all {
				known = append(known, p.Name())
			}
			return nil, usage("--peers %q: for %s: images there are %v, or all", name, scheme, known)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// newURITarget asks the server how large the export is.
func newURITarget(ctx context.Context, e engine.Endpoint) (*engine.OverNBD, error) {
	conn, err := nbdclient.Dial(ctx, e.Network, e.Address, e.Export)
	if err != nil {
		return nil, err
	}
	size := conn.SizeBytes
	return &engine.OverNBD{
		What: result.Contestant{Name: "server", Text: "export " + strconv.Quote(e.Export) + " of the server at " + e.Address}, SizeBytes: size,
		Endpoints: []engine.Endpoint{e},
	}, conn.Close()
}

// withoutSecrets is what a report may show of the settings.
func withoutSecrets(options map[string]string) map[string]string {
	shown := map[string]string{}
	for name, value := range options {
		if name == "key" || name == "keyring" || name == "keyfile" {
			value = "(not shown)"
		}
		shown[name] = value
	}
	return shown
}

// reportFiles are made before the run, so that a long one does not end with a report that cannot be written, and get their
// names after it.
type reportFiles struct{ json, html *reportFile }

type reportFile struct {
	name string
	f    *os.File
}

func newReportFiles(json, html string) (r reportFiles, err error) {
	if r.json, err = newReportFile(json); err == nil {
		r.html, err = newReportFile(html)
	}
	if err != nil {
		r.drop()
	}
	return r, err
}

func newReportFile(name string) (*reportFile, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".")
	if err != nil {
		return nil, fmt.Errorf("report %s: %w", name, err)
	}
	return &reportFile{name, f}, nil
}

// write writes what was asked for.
func (r *reportFiles) write(doc *result.Document) error {
	err := r.json.write(doc.Write)
	return errors.Join(err, r.html.write(func(w io.Writer) error { return benchreport.HTML(w, doc) }))
}

func (f *reportFile) write(content func(io.Writer) error) error {
	if f == nil {
		return nil
	}
	err := errors.Join(content(f.f), f.f.Chmod(0o644), f.f.Close())
	if err == nil {
		err = os.Rename(f.f.Name(), f.name)
	}
	if err != nil {
		return fmt.Errorf("report %s: %w", f.name, err)
	}
	return nil
}

// drop removes what has not got its name.
func (r *reportFiles) drop() {
	for _, f := range []*reportFile{r.json, r.html} {
		if f != nil {
			_ = f.f.Close()
			_ = os.Remove(f.f.Name())
		}
	}
}
