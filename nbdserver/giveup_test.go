// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"context"
	"testing"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/wire"
)

// slowCatalog opens nothing: who asks waits until it is given up.
type slowCatalog struct{ asked chan struct{} }

func (c slowCatalog) List(context.Context, *nbdserver.Peer) ([]nbdserver.ExportInfo, error) {
	return nil, nil
}

func (c slowCatalog) Open(ctx context.Context, name string, _ *nbdserver.Peer) (nbdserver.ExportInfo, nbdserver.Device, error) {
	c.asked <- struct{}{}
	<-ctx.Done()
	return nbdserver.ExportInfo{Name: name}, nil, ctx.Err()
}

// TestOpenIsGivenUp has a client that waits for an image which does not open: it delays neither a hand-over nor a shutdown.
func TestOpenIsGivenUp(t *testing.T) {
	for name, end := range map[string]func(context.Context, *nbdserver.Server) error{
		"detach":   func(ctx context.Context, s *nbdserver.Server) error { _, err := s.Detach(ctx); return err },
		"shutdown": func(ctx context.Context, s *nbdserver.Server) error { return s.Shutdown(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			slow := slowCatalog{make(chan struct{})}
			s := nbdserver.New(nbdserver.Options{Catalog: slow})
			c := hello(t, s, bothFlags)
			c.write(option(wire.OptGo, infoData("x")))
			<-slow.asked
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := end(ctx, s); err != nil {
				t.Error(err)
			}
			c.gone()
		})
	}
}
