// SPDX-License-Identifier: Apache-2.0

package server

import (
	"testing"

	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
)

// ended is a nbdserver.Completion and its Sender.
type ended chan error

func (e ended) Done(err error) nbdserver.Sender { e <- err; return e }
func (e ended) Send()                           {}

// TestBehind: what lies behind an offset is read and written there, waiting or not.
func TestBehind(t *testing.T) {
	whole := memdevice.New(1 << 20)
	if _, ok := Behind(whole, 512).(nbdserver.AsyncDevice); ok {
		t.Error("a device that waits became one that does not")
	}
	d, ok := Behind(whole.Async(), 512).(interface {
		nbdserver.Device
		nbdserver.AsyncDevice
	})
	if !ok || d.SizeBytes() != 1<<20-512 {
		t.Fatalf("of %d bytes, async %t", d.SizeBytes(), ok)
	}
	done := make(ended, 1)
	d.StartWrite([]byte("one"), 0, done)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := d.WriteAt([]byte("two"), 3, false); err != nil {
		t.Fatal(err)
	}
	p, q := make([]byte, 6), make([]byte, 6)
	d.StartRead(p, 0, done)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := whole.ReadAt(q, 512); err != nil || string(p) != "onetwo" || string(q) != "onetwo" {
		t.Errorf("%v, read %q and %q", err, p, q)
	}
}
