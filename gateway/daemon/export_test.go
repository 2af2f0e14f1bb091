// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/daemon/api"
	"github.com/luksgate/luksgate/nbdserver"
)

// patience is how long tests wait for what must happen; nothing is asserted about time.
const patience = time.Minute

// newDaemon is a daemon that serves no sockets, for tests of its exports.
func newDaemon(t *testing.T, conf string) *Daemon {
	t.Helper()
	c, err := config.Parse("test", []byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{Config: c, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.cancel()
		if err := d.closeAll(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (e *export) must(t *testing.T) nbdserver.Device {
	t.Helper()
	dev, err := e.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// within fails where f has not ended in time.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("not in time: %s", what)
	}
}

// TestEndBesideGrace has the time of grace run out while the daemon ends: the image closes once.
func TestEndBesideGrace(t *testing.T) {
	d := newDaemon(t, `exports: [{name: a, image: "mem:1M", socket: /nowhere/a, close_after: 1h}]`)
	e := d.export("a")
	_ = e.must(t).Close()
	opening := make(chan struct{})
	e.mu.Lock()
	img := e.image
	e.opening = opening // shut waits for it
	e.mu.Unlock()
	img.watch.Add(1) // closing the image waits for that
	ended := make(chan error, 2)
	go func() { ended <- e.shut() }()
	eventually(t, "it ends", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.ended
	})
	timer := make(chan struct{})
	go func() {
		ended <- e.closeIdle(img) // what the timer does that could not be stopped any more
		close(timer)
	}()
	eventually(t, "the timer's part is under way or over", func() bool {
		select {
		case <-timer:
			return true
		case <-img.quit:
			return true
		default:
			return false
		}
	})
	close(opening)
	time.AfterFunc(10*time.Millisecond, img.watch.Done)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// TestEndBesideOpen has an image that does not open when the daemon hands over: that is not waited for.
func TestEndBesideOpen(t *testing.T) {
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 1<<20)})
	d := newDaemon(t, fmt.Sprintf(`exports: [{name: a, image: "file:%s", socket: /nowhere/a, key: {command: [%s, "3600"], timeout: 1h}, open_timeout: 1h}]`,
		luks.Path, testenv.Tool(t, "sleep")))
	e := d.export("a")
	go func() { _, _ = e.acquire(t.Context()) }()
	eventually(t, "it is being opened", func() bool { return e.state().State == api.StateOpening })
	within(t, "the export has ended", func() { _ = e.shut() })
}

// TestOtherImage changes the image of an export below a client: a new one never gets the old image, which is not the one
// that the export is now, and it gets the new one when the old client has left.
func TestOtherImage(t *testing.T) {
	d := newDaemon(t, `exports: [{name: a, image: "mem:1M", socket: /nowhere/a, close_after: 1h}]`)
	e := d.export("a")
	old := e.must(t)
	c := e.current()
	c.Image = "mem:2M"
	e.update(c, originFile)
	if dev, err := e.acquire(t.Context()); err == nil || !strings.Contains(err.Error(), "mem:1M") {
		t.Errorf("a new client: %v, %v", dev, err)
	}
	again, err := e.acquireAnyway(t.Context()) // one of before, as after an upgrade
	if err != nil {
		t.Fatal(err)
	}
	_, _ = again.Close(), old.Close()
	dev := e.must(t)
	if dev.SizeBytes() != 2<<20 {
		t.Errorf("the image has %d bytes", dev.SizeBytes())
	}
	_ = dev.Close()
}

// TestAddBesideRemove adds an export again in the moment in which its removal ends: it is there afterwards.
func TestAddBesideRemove(t *testing.T) {
	d := newDaemon(t, "listen: [{socket: /nowhere/all}]")
	const text = `{"name": "a", "image": "mem:1M", "close_after": "0s"}`
	for i := range 2000 {
		e, _, err := d.add([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if d.export("a") != e {
			t.Fatalf("round %d: it was added and is not there", i)
		}
		dev := e.must(t)
		e.remove()
		go dev.Close()
	}
}

// TestOneKeeper drains and resumes an export that is to be open and cannot: one goroutine tries, not one each time.
func TestOneKeeper(t *testing.T) {
	d := newDaemon(t, fmt.Sprintf(`exports: [{name: a, image: "file:%s", socket: /nowhere/a, plain: true, open: start}]`, filepath.Join(t.TempDir(), "none")))
	e := d.export("a")
	for range 20 {
		e.drain()
		if err := e.resume(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it failed", func() bool { return e.state().State == api.StateFailed })
	eventually(t, "one keeper", func() bool {
		var b strings.Builder
		_ = pprof.Lookup("goroutine").WriteTo(&b, 2)
		return strings.Count(b.String(), ".keepOpen(") == 1
	})
	// It goes on after a drain that ends while it waits.
	e.drain()
	_ = e.resume()
	c := e.current()
	c.Image = "mem:1M"
	d.ready = true
	d.put(c, originFile)
	eventually(t, "it is open", func() bool { return e.state().State == api.StateOpen })
}
