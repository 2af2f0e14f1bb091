// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"testing"
)

func pidText(g *gate) string { return strconv.Itoa(g.PID()) }

// A rawClient speaks just enough NBD (simple replies) to misbehave.
type rawClient struct {
	t *testing.T
	c net.Conn
}

// dial negotiates the default export.
func dial(t *testing.T, socket string) *rawClient {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r := &rawClient{t, c}
	r.read(18) // NBDMAGIC, IHAVEOPT, flags
	r.write(u32(3))
	r.goDefault()
	return r
}

// goDefault asks for the default export.
func (r *rawClient) goDefault() {
	r.t.Helper()
	r.write([]byte("IHAVEOPT"), u32(7), u32(6), u32(0), []byte{0, 0}) // NBD_OPT_GO, no name, no info requests
	for {
		head := r.read(20)
		r.read(int(binary.BigEndian.Uint32(head[16:])))
		if kind := binary.BigEndian.Uint32(head[12:]); kind == 1 { // NBD_REP_ACK
			return
		} else if kind != 3 {
			r.t.Fatalf("reply %#x to NBD_OPT_GO", kind)
		}
	}
}

func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func (r *rawClient) write(parts ...[]byte) {
	r.t.Helper()
	for _, p := range parts {
		if _, err := r.c.Write(p); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rawClient) read(n int) []byte {
	r.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r.c, b); err != nil {
		r.t.Fatal(err)
	}
	return b
}

// writeHeader announces a WRITE.
func (r *rawClient) writeHeader(cookie uint64, offset uint64, length uint32) {
	r.t.Helper()
	h := binary.BigEndian.AppendUint32(nil, 0x25609513)
	h = append(h, 0, 0, 0, 1)
	h = binary.BigEndian.AppendUint64(h, cookie)
	h = binary.BigEndian.AppendUint64(h, offset)
	r.write(binary.BigEndian.AppendUint32(h, length))
}

// reply waits for a simple reply and returns its cookie and error.
func (r *rawClient) reply() (cookie uint64, errno uint32) {
	r.t.Helper()
	b := r.read(16)
	return binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[4:])
}
