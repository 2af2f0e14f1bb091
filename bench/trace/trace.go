// SPDX-License-Identifier: Apache-2.0

// Package trace writes and reads files of what a client asked of a block device: when, what, where and how much, but not
// which bytes. docs/bench-format.md describes the format.
package trace

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// The beginning of a file.
const (
	magic   = "LUKSGTRC"
	version = 1
)

// Limits of what a file can say.
const (
	// maxNameBytes is the longest name of an export (NBD, "Values").
	maxNameBytes = 4096
	// maxDataBytes is the most that a read or write moves.
	maxDataBytes = 32 << 20
	maxGap       = time.Duration(1) << 53 // three months
)

// An Op is what was asked for.
type Op uint8

// The operations, as they are in the file. Zero ends it.
const (
	end Op = iota
	Read
	Write
	Flush
	Trim
	Zero
	Cache
	ops
)

// String is the operation's name.
func (o Op) String() string {
	if o >= ops {
		return fmt.Sprintf("operation %d", uint8(o))
	}
	return [ops]string{"end", "read", "write", "flush", "trim", "zero", "cache"}[o]
}

// Changes tells whether bytes of the device change.
func (o Op) Changes() bool { return o == Write || o == Trim || o == Zero }

// moves tells whether bytes go over the wire.
func (o Op) moves() bool { return o == Read || o == Write }

// Flags of a request; they are the upper half of the byte that says what it is.
type Flags uint8

// The flags.
const (
	FUA    Flags = 1 << 4 // on stable storage before the reply
	NoHole Flags = 1 << 5 // of Zero: allocated
	Fast   Flags = 1 << 6 // of Zero: only if it is fast
	flags        = FUA | NoHole | Fast
)

// A Record is one request.
type Record struct {
	At          time.Duration // since the beginning of the trace
	Op          Op
	Flags       Flags
	OffsetBytes int64 // 0 for Flush
	LengthBytes int64 // 0 for Flush
}

// A Header says what was traced.
type Header struct {
	SizeBytes int64 // of the device
	Started   time.Time
	Name      string // of the export
}

// ErrFormat is a file that is no trace, or a damaged one.
var ErrFormat = errors.New("not a trace of luksgate, or a damaged one")

// A Writer writes a trace. One goroutine uses it.
type Writer struct {
	w     *bufio.Writer
	last  Record
	count uint64
	bytes int64
	buf   []byte
}

// NewWriter writes the header.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	if len(h.Name) > maxNameBytes || h.SizeBytes < 0 {
		return nil, fmt.Errorf("trace: name of %d bytes and device of %d, expected at most %d and at least 0", len(h.Name), h.SizeBytes, maxNameBytes)
	}
	t := &Writer{w: bufio.NewWriterSize(w, 64<<10)}
	b := append([]byte(magic), version)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.SizeBytes))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.Started.UnixNano()))
	b = binary.AppendUvarint(b, uint64(len(h.Name)))
	b = append(b, h.Name...)
	return t, t.write(b)
}

func (t *Writer) write(b []byte) error {
	n, err := t.w.Write(b)
	t.bytes += int64(n)
	return err
}

// Bytes is how large the trace is so far, without its end.
func (t *Writer) Bytes() int64 { return t.bytes }

// Append adds a record. Times must not go back; one that does counts as the last one.
func (t *Writer) Append(r Record) error {
	r.At = max(r.At, t.last.At)
	b := append(t.buf[:0], byte(r.Op)|byte(r.Flags))
	b = binary.AppendUvarint(b, uint64(r.At-t.last.At))
	if r.Op != Flush {
		b = binary.AppendVarint(b, r.OffsetBytes-(t.last.OffsetBytes+t.last.LengthBytes))
		b = binary.AppendUvarint(b, uint64(r.LengthBytes))
	} else {
		r.OffsetBytes, r.LengthBytes = t.last.OffsetBytes, t.last.LengthBytes
	}
	t.buf, t.last = b, r
	t.count++
	return t.write(b)
}

// Close writes the end. It does not close what is below.
func (t *Writer) Close() error {
	b := binary.AppendUvarint([]byte{byte(end)}, t.count)
	return errors.Join(t.write(b), t.w.Flush())
}

// A Reader reads a trace. One goroutine uses it.
type Reader struct {
	Header
	r     *bufio.Reader
	last  Record
	count uint64
}

// NewReader reads the header.
func NewReader(r io.Reader) (*Reader, error) {
	t := &Reader{r: bufio.NewReaderSize(r, 64<<10)}
	var head [len(magic) + 1 + 8 + 8]byte
	if _, err := io.ReadFull(t.r, head[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if string(head[:len(magic)]) != magic || head[len(magic)] != version {
		return nil, fmt.Errorf("%w: it begins with %x, expected %q and version %d", ErrFormat, head[:len(magic)+1], magic, version)
	}
	t.SizeBytes = int64(binary.LittleEndian.Uint64(head[len(magic)+1:]))
	t.Started = time.Unix(0, int64(binary.LittleEndian.Uint64(head[len(magic)+9:])))
	n, err := binary.ReadUvarint(t.r)
	if err != nil || n > maxNameBytes || t.SizeBytes < 0 {
		return nil, fmt.Errorf("%w: name of %d bytes, device of %d (%w)", ErrFormat, n, t.SizeBytes, orNothing(err))
	}
	name := make([]byte, n)
	if _, err := io.ReadFull(t.r, name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	t.Name = string(name)
	return t, nil
}

func orNothing(err error) error {
	if err == nil {
		return errors.New("out of bounds")
	}
	return err
}

// Next is the next record; io.EOF after the last one. A file that ends without its end mark, because the recorder died, is
// io.ErrUnexpectedEOF: what came before is good.
func (t *Reader) Next() (Record, error) {
	first, err := t.r.ReadByte()
	if errors.Is(err, io.EOF) {
		return Record{}, io.ErrUnexpectedEOF
	}
	if err != nil {
		return Record{}, err
	}
	r := Record{Op: Op(first & 0xf), Flags: Flags(first & 0xf0)}
	if r.Op == end {
		return Record{}, t.end()
	}
	if r.Op >= ops || r.Flags&^flags != 0 {
		return Record{}, fmt.Errorf("%w: record %d is of type %#x", ErrFormat, t.count, first)
	}
	if err := t.fields(&r); err != nil {
		return Record{}, err
	}
	t.count++
	t.last = r
	if r.Op == Flush {
		r.OffsetBytes, r.LengthBytes = 0, 0
	}
	return r, nil
}

func (t *Reader) end() error {
	n, err := binary.ReadUvarint(t.r)
	if err != nil || n != t.count {
		return fmt.Errorf("%w: it ends after %d records and says that there are %d", ErrFormat, t.count, n)
	}
	return io.EOF
}

// fields reads what follows the type, and checks it against the device.
func (t *Reader) fields(r *Record) error {
	var distance int64
	var length uint64
	gap, err := binary.ReadUvarint(t.r)
	if err == nil && r.Op != Flush {
		if distance, err = binary.ReadVarint(t.r); err == nil {
			length, err = binary.ReadUvarint(t.r)
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.ErrUnexpectedEOF
	}
	if err != nil || gap > uint64(maxGap) || t.last.At > 1<<62 {
		return fmt.Errorf("%w: record %d: its time", ErrFormat, t.count)
	}
	r.At = t.last.At + time.Duration(gap)
	if r.Op == Flush {
		r.OffsetBytes, r.LengthBytes = t.last.OffsetBytes, t.last.LengthBytes // what the next one counts from
		return nil
	}
	r.OffsetBytes = t.last.OffsetBytes + t.last.LengthBytes + distance
	r.LengthBytes = int64(length)
	if length > uint64(t.SizeBytes) || r.OffsetBytes < 0 || r.OffsetBytes > t.SizeBytes-r.LengthBytes ||
		r.Op.moves() && r.LengthBytes > maxDataBytes || r.LengthBytes >= 1<<32 {
		return fmt.Errorf("%w: record %d: %s of %d bytes at %d of a device of %d", ErrFormat, t.count, r.Op, length, r.OffsetBytes, t.SizeBytes)
	}
	return nil
}
