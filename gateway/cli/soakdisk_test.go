// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package cli

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
)

// Numbers of the NBD protocol.
const (
	nbdRead, nbdWrite, nbdFlush, nbdTrim, nbdZero = 0, 1, 3, 4, 6
	nbdFUA, nbdNoHole, nbdFast                    = 1 << 0, 1 << 1, 1 << 4
	nbdNotSupported                               = 95
)

// A disk is a connection to an export, for one request at a time. Its errors are for when the gateway is gone.
type disk struct {
	c         net.Conn
	sizeBytes int64
	cookie    uint64
}

func openDisk(socket string) (*disk, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	d := &disk{c: c}
	hello := binary.BigEndian.AppendUint32(nil, 3)
	hello = append(hello, "IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00"...) // NBD_OPT_GO, no name, no requests
	if _, err := d.read(18); err != nil {
		return nil, err
	}
	if _, err := c.Write(hello); err != nil {
		return nil, err
	}
	for {
		head, err := d.read(20)
		if err != nil {
			return nil, err
		}
		body, err := d.read(int(binary.BigEndian.Uint32(head[16:])))
		switch kind := binary.BigEndian.Uint32(head[12:]); {
		case err != nil:
			return nil, err
		case kind == 1: // NBD_REP_ACK
			return d, nil
		case kind != 3:
			return nil, fmt.Errorf("reply %#x to NBD_OPT_GO", kind)
		case binary.BigEndian.Uint16(body) == 0: // NBD_INFO_EXPORT
			d.sizeBytes = int64(binary.BigEndian.Uint64(body[2:]))
		}
	}
}

func (d *disk) read(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(d.c, b)
	return b, err
}

// do sends a request and waits for its simple reply. in is what is written, out where what is read goes.
func (d *disk) do(command, flags int, offset, length int64, in, out []byte) error {
	d.cookie++
	h := binary.BigEndian.AppendUint32(nil, 0x25609513)
	h = binary.BigEndian.AppendUint16(h, uint16(flags))
	h = binary.BigEndian.AppendUint16(h, uint16(command))
	h = binary.BigEndian.AppendUint64(h, d.cookie)
	h = binary.BigEndian.AppendUint64(h, uint64(offset))
	h = binary.BigEndian.AppendUint32(h, uint32(length))
	if _, err := d.c.Write(append(h, in...)); err != nil {
		return err
	}
	reply, err := d.read(16)
	if err != nil {
		return err
	}
	if no := syscall.Errno(binary.BigEndian.Uint32(reply[4:])); no != 0 {
		return fmt.Errorf("%w: %w", errReply, no)
	}
	_, err = io.ReadFull(d.c, out)
	return err
}

// errWrong and errReply are for what an export should not have answered, in contrast to not answering.
var (
	errWrong = errors.New("wrong bytes")
	errReply = errors.New("the export replies")
)

// A change is a request whose end was not seen: each chunk of 512 bytes is what it was, or next.
type change struct {
	offset int64
	next   []byte
}

// A worker does random requests in a part of an image that is its own.
type worker struct {
	r      *rand.Rand
	d      *disk
	offset int64  // of its part
	model  []byte // what its part holds
}

// pick is a random range of the worker's part, long or short, often aligned.
func (w *worker) pick() (offset, length int64) {
	n := int64(len(w.model))
	offset = w.r.Int64N(n)
	if w.r.IntN(2) == 0 {
		offset = offset / 4096 * 4096
	}
	most := []int64{1, 512, 512, 4096, 4096, 4096, 70_000, 70_000, 70_000, 700_000, 700_000, 3 << 20}[w.r.IntN(12)]
	length = 1 + w.r.Int64N(min(most, n-offset))
	if w.r.IntN(3) == 0 && offset%4096 == 0 && length > 4096 {
		length = length / 4096 * 4096
	}
	return offset, length
}

// step does one request. Without an error what it changed is in the model; with one, it may have been done.
func (w *worker) step() (change, error) {
	offset, length := w.pick()
	at := offset + w.offset
	mine := w.model[offset : offset+length]
	zeros := change{at, make([]byte, length)}
	switch w.r.IntN(10) {
	case 0, 1:
		got := make([]byte, length)
		if err := w.d.do(nbdRead, 0, at, length, nil, got); err != nil {
			return change{}, err
		}
		return change{}, sameBytes(got, mine, at)
	case 2:
		flags := []int{0, nbdFUA, nbdNoHole, nbdFast}[w.r.IntN(4)]
		err := w.d.do(nbdZero, flags, at, length, nil, nil)
		if flags == nbdFast && errors.Is(err, syscall.Errno(nbdNotSupported)) {
			return change{}, nil
		}
		if err == nil {
			clear(mine)
		}
		return zeros, err
	case 3:
		if err := w.d.do(nbdTrim, 0, at, length, nil, nil); err != nil {
			return zeros, err
		}
		return zeros, w.settle(zeros)
	case 4:
		return change{}, w.d.do(nbdFlush, 0, 0, 0, nil, nil)
	default:
		next := soakBytes(w.r, length)
		err := w.d.do(nbdWrite, w.r.IntN(2)*nbdFUA, at, length, next, nil)
		if err == nil {
			copy(mine, next)
		}
		return change{at, next}, err
	}
}

// settle finds out what became of a change.
func (w *worker) settle(c change) error {
	if len(c.next) == 0 {
		return nil
	}
	got := make([]byte, len(c.next))
	if err := w.d.do(nbdRead, 0, c.offset, int64(len(got)), nil, got); err != nil {
		return err
	}
	mine := w.model[c.offset-w.offset:][:len(got)]
	for i := 0; i < len(got); {
		n := min(512-int(c.offset+int64(i))%512, len(got)-i)
		if !bytes.Equal(got[i:i+n], mine[i:i+n]) && !bytes.Equal(got[i:i+n], c.next[i:i+n]) {
			return fmt.Errorf("%w: after a request at %d+%d the chunk at %d is neither what it was nor what it was to be",
				errWrong, c.offset, len(got), c.offset+int64(i))
		}
		i += n
	}
	copy(mine, got)
	return nil
}

func sameBytes(got, want []byte, offset int64) error {
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("%w: byte %d (%d MiB + %d) is %#x, want %#x", errWrong, offset+int64(i), (offset+int64(i))>>20, (offset+int64(i))&(1<<20-1), got[i], want[i])
		}
	}
	return nil
}

// soakBytes are random, with runs of zeros.
func soakBytes(r *rand.Rand, n int64) []byte {
	p := make([]byte, n)
	seed := r.Uint64()
	copy(p, randomBytes(int(n), seed))
	if r.IntN(3) == 0 {
		from := r.Int64N(n)
		clear(p[from : from+r.Int64N(n-from)+1])
	}
	return p
}
