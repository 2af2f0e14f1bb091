// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway/key"
	"github.com/luksgate/luksgate/gateway/metrics"
)

// flaky is a key source that is down for a while. One attempt of it may hang.
type flaky struct {
	down  int // attempts that fail
	err   error
	hangs bool
	tried int
}

func (f *flaky) String() string { return "flaky" }

func (f *flaky) Passphrase(ctx context.Context) (*secret.Bytes, error) {
	f.tried++
	if f.tried > f.down {
		return secret.Copy([]byte("k"))
	}
	if f.hangs {
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %w", key.ErrUnavailable, ctx.Err())
	}
	return nil, f.err
}

// TestPatience has sources that are down: those that may come back are asked again, a few times, and each attempt counts.
func TestPatience(t *testing.T) {
	before := keyRetryPauses
	keyRetryPauses = []time.Duration{time.Millisecond, time.Millisecond, time.Millisecond}
	defer func() { keyRetryPauses = before }()
	down := fmt.Errorf("%w: no route", key.ErrUnavailable)
	for name, c := range map[string]struct {
		source *flaky
		tries  int
		works  bool
	}{
		"well":         {&flaky{}, 1, true},
		"comes back":   {&flaky{down: 3, err: down}, 4, true},
		"hangs once":   {&flaky{down: 1, hangs: true}, 2, true},
		"stays down":   {&flaky{down: 9, err: down}, 4, false},
		"no such key":  {&flaky{down: 9, err: errors.New("no such secret")}, 1, false},
		"hangs always": {&flaky{down: 9, hangs: true}, 4, false},
	} {
		stats := metrics.NewSet(metrics.Build{}, nil).Export(name)
		b, err := patient{c.source, 10 * time.Millisecond, stats}.Passphrase(context.Background())
		if err == nil {
			b.Release()
		}
		s := stats.Snapshot()
		if (err == nil) != c.works || c.source.tried != c.tries || s.KeyFetched+s.KeyFailed != uint64(c.tries) || (s.KeyFetched == 1) != c.works {
			t.Errorf("%s: %v after %d attempts, counted %d and %d", name, err, c.source.tried, s.KeyFetched, s.KeyFailed)
		}
	}
}

// TestPatienceEnds when the one who asks gives up.
func TestPatienceEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	source := &flaky{down: 9, err: fmt.Errorf("%w: no route", key.ErrUnavailable)}
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := patient{source, time.Second, metrics.NewSet(metrics.Build{}, nil).Export("a")}.Passphrase(ctx)
	if !errors.Is(err, key.ErrUnavailable) || source.tried > 2 {
		t.Errorf("%v after %d attempts", err, source.tried)
	}
}
