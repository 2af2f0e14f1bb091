// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/gateway"
	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/gateway/image"
)

// operateFlags are those of the verbs that change an image and take long.
type operateFlags struct {
	ceph   cephFlags
	key    keyFlags
	header headerFlags
	admin  adminFlags
	plain  bool
	json   bool
}

func (f *operateFlags) add(fs *pflag.FlagSet) {
	f.key.chain = true
	f.key.add(fs)
	f.header.addFile(fs)
	f.header.addMemory(fs)
	fs.BoolVar(&f.plain, "plain", false, "the image is not encrypted, or its bytes are meant as they are")
	fs.BoolVar(&f.json, "json", false, "print progress and result on standard output as JSON, one object a line")
	f.admin.add(fs)
	f.ceph.add(fs)
}

// config joins the flags and the image's name. Nobody is asked for a passphrase, since it is seldom needed.
func (f *operateFlags) config(s std, arg string) (gateway.Config, error) {
	ref, err := image.ParseRef(arg)
	if err != nil {
		return gateway.Config{}, err
	}
	if ref.Scheme != image.RBD {
		return gateway.Config{}, usage("%s: this is for rbd: images only", ref)
	}
	cfg := gateway.Config{Image: ref, Plain: f.plain, Ceph: f.ceph.config(), Logger: newLogger(s.err, false)}
	if err := f.header.set(&cfg); err != nil || !f.key.given() {
		return cfg, err
	}
	cfg.Key, err = f.key.source(s, ref)
	cfg.ParentKeys = f.key.parents()
	return cfg, err
}

// An operation is done here if nobody else has the image open, or by the daemon that has.
type operation struct {
	here  func(context.Context, gateway.Config, gateway.Progress) (any, error)
	there func(context.Context, *api.Client, string, func(string, int64, int64)) (any, error)
}

// run returns the result of an operation.
func (f *operateFlags) run(ctx context.Context, s std, arg string, o operation) (any, error) {
	cfg, err := f.config(s, arg)
	if err != nil {
		return nil, err
	}
	p := f.progress(s)
	result, err := o.here(ctx, cfg, p.at)
	if errors.Is(err, image.ErrBusy) {
		client := f.admin.client()
		switch name, findErr := f.served(ctx, client, cfg); {
		case findErr != nil && !errors.Is(findErr, api.ErrNotRunning):
			err = fmt.Errorf("%w; and %w", err, findErr)
		case name != "":
			result, err = o.there(ctx, client, name, p.at)
		}
	}
	p.end(err == nil)
	if err != nil {
		return nil, err
	}
	if f.json {
		return result, json.NewEncoder(s.out).Encode(map[string]any{"result": result})
	}
	return result, nil
}

// served finds the export of the daemon that has the image open; "" means that none does.
func (f *operateFlags) served(ctx context.Context, client *api.Client, cfg gateway.Config) (string, error) {
	exports, err := client.Exports(ctx)
	if err != nil {
		return "", err
	}
	for _, e := range exports {
		ref, err := image.ParseRef(e.Image)
		if err != nil || ref != cfg.Image || e.Cluster == "" || e.ReadOnly {
			continue
		}
		// An image of this name may be in another cluster too.
		cluster, err := gateway.ClusterOf(cfg)
		if err != nil {
			return "", err
		}
		if e.Cluster == cluster {
			return e.Name, nil
		}
	}
	return "", nil
}

// jsonEvery is how often progress is printed for machines.
const jsonEvery = 200 * time.Millisecond

// An operationProgress shows how far an operation is: as a bar at a terminal, as JSON if that is wanted, else not at all.
type operationProgress struct {
	s        std
	json     bool
	terminal bool
	step     string
	last     time.Time
	bar      *progressbar.ProgressBar
}

func (f *operateFlags) progress(s std) *operationProgress {
	_, terminal := isTerminal(s.err)
	return &operationProgress{s: s, json: f.json, terminal: terminal && !f.json}
}

// at is a gateway.Progress.
func (p *operationProgress) at(step string, done, total int64) {
	begins := step != p.step
	p.step = step
	switch {
	case p.json:
		if now := time.Now(); begins || now.Sub(p.last) >= jsonEvery {
			p.last = now
			_ = json.NewEncoder(p.s.out).Encode(api.Event{Step: step, Done: done, Total: total})
		}
	case p.terminal:
		if begins {
			p.end(true)
			p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(p.s.err), progressbar.OptionSetDescription(step),
				progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetPredictTime(true), progressbar.OptionFullWidth())
		}
		_ = p.bar.Set64(done)
	}
}

// end leaves the bar as it is, full if all went well.
func (p *operationProgress) end(good bool) {
	if p.bar == nil {
		return
	}
	if good {
		_ = p.bar.Finish()
	}
	fmt.Fprintln(p.s.err)
	p.bar = nil
}
