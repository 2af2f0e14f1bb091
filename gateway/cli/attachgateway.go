// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/luksgate/luksgate/attach"
	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/gateway/image"
)

// export is what the daemon is told, in the form of luksgate.conf.
func (f *attachFlags) export(ref image.Ref, uri attach.URI) ([]byte, error) {
	e := map[string]any{"name": uri.Export, "image": ref.String(), "socket": uri.Socket, "read_only": f.disk.opts.ReadOnly}
	key := map[string]any{"trim_newline": f.trim}
	switch {
	case f.keyFile != "":
		path, err := filepath.Abs(f.keyFile)
		if err != nil {
			return nil, err
		}
		key["file"] = path
	case f.keySecret != "" && strings.Contains(f.keySecret, "/"): // libvirt insists on a / in usages of passphrases
		key["libvirt_secret"] = map[string]string{"usage": f.keySecret}
	case f.keySecret != "":
		key["libvirt_secret"] = map[string]string{"uuid": f.keySecret}
	}
	if len(key) > 1 {
		e["key"] = key
	}
	if f.ceph.conf != "" || f.ceph.user != "" {
		e["ceph"] = map[string]any{"conf": f.ceph.conf, "user": f.ceph.user}
	}
	if f.engine != "" {
		e["engine"] = f.engine
	}
	return json.Marshal(e)
}

// A daemonGateway is the running daemon, as package plug wants it.
type daemonGateway struct {
	client      *api.Client
	name, image string
	export      []byte
}

// Ensure implements plug.Gateway. An export of the same name that is there already is taken if it has the same image and
// the same socket.
func (g *daemonGateway) Ensure(ctx context.Context) (bool, error) {
	before, err := g.client.Export(ctx, g.name)
	switch {
	case err == nil && !before.Removed:
		if before.Image != g.image {
			return false, fmt.Errorf("the daemon has an export %s of %s already: choose another --name", g.name, before.Image)
		}
		return false, nil
	case err != nil && !errors.Is(err, api.ErrNotFound):
		return false, err
	}
	_, err = g.client.Add(ctx, g.export)
	return err == nil, err
}

// releaseTimeout bounds how long a qemu that has lost its disk may still be connected.
const releaseTimeout = 10 * time.Second

// Release implements plug.Gateway. Exports of the configuration file stay.
func (g *daemonGateway) Release(ctx context.Context, uri attach.URI) error {
	e, err := g.client.Export(ctx, uri.Export)
	if errors.Is(err, api.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	at := func(text string) bool {
		other, err := attach.ParseURI(text)
		return err == nil && other == uri
	}
	if e.Origin != "api" || !slices.ContainsFunc(e.URIs, at) {
		return nil
	}
	for deadline := time.Now().Add(releaseTimeout); ; {
		err := g.client.Remove(ctx, uri.Export, false)
		if err == nil || errors.Is(err, api.ErrNotFound) {
			return nil
		}
		if !errors.Is(err, api.ErrConflict) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
