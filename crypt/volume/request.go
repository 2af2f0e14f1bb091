// SPDX-License-Identifier: Apache-2.0

package volume

import "encoding/binary"

// grainBytes is the least that is worth handing to another processor; docs/benchmarks.md has the measurement.
const grainBytes = 256 << 10

// A request is the state of one read or write, reused so that the steady state allocates nothing.
type request struct {
	v    *Volume
	hold rangeHold
	span span
	head []byte // scratch sector for a ragged beginning
	tail []byte // scratch sector for a ragged end
	iov  [3][]byte
	one  [1][]byte
	// hasHead: the first slice of iov is head.
	hasHead bool
	job     cryptJob
	done    Completion // of a request that nobody waits for
}

func newRequest(v *Volume) *request {
	s := v.opts.Geometry.SectorBytes
	scratch := make([]byte, 2*s)
	return &request{v: v, hold: rangeHold{wake: make(chan struct{}, 1)}, head: scratch[:s], tail: scratch[s:]}
}

// begin locks the sectors of a byte range.
func (v *Volume) begin(offsetBytes, lengthBytes int64, exclusive bool) *request {
	r := v.reqs.Get().(*request)
	r.span = v.opts.Geometry.span(offsetBytes, lengthBytes)
	v.locks.lock(&r.hold, r.span.startBytes, r.span.endBytes, exclusive)
	return r
}

func (v *Volume) end(r *request) {
	v.locks.unlock(&r.hold)
	r.iov, r.one, r.job, r.done = [3][]byte{}, [1][]byte{}, cryptJob{}, nil
	v.reqs.Put(r)
}

// cut lays the request's sectors over p: a scratch sector where p begins or ends inside one, p itself between.
// inner is the part of p that consists of whole sectors. A request inside one sector has only a head.
func (r *request) cut(p []byte) (iov [][]byte, inner []byte) {
	n := 0
	inner = p
	r.hasHead = r.span.headBytes > 0 || (r.span.tailBytes > 0 && len(p) < len(r.tail))
	if r.hasHead {
		r.iov[n], n = r.head, n+1
		inner = inner[min(len(inner), len(r.head)-r.span.headBytes):]
	}
	hasTail := r.span.tailBytes > 0 && len(inner) > 0
	if hasTail {
		inner = inner[:len(inner)-(len(r.tail)-r.span.tailBytes)]
	}
	if len(inner) > 0 {
		r.iov[n], n = inner, n+1
	}
	if hasTail {
		r.iov[n], n = r.tail, n+1
	}
	return r.iov[:n], inner
}

func (r *request) read(p []byte) error {
	g := r.v.opts.Geometry
	iov, inner := r.cut(p)
	if err := r.v.store.ReadAt(iov, g.storeOffset(r.span.startBytes)); err != nil {
		return err
	}
	pos := r.span.startBytes
	for _, b := range iov {
		r.crypt(b, pos, false)
		pos += int64(len(b))
	}
	if r.span.aligned() {
		return nil
	}
	head := p[:0]
	if r.hasHead {
		head = p[:copy(p, r.head[r.span.headBytes:])]
	}
	if rest := p[len(head)+len(inner):]; len(rest) > 0 {
		copy(rest, r.tail)
	}
	return nil
}

func (r *request) write(p []byte, fua bool) error {
	g := r.v.opts.Geometry
	iov, inner := r.cut(p)
	if !r.span.aligned() {
		if r.v.swap != nil {
			return r.writeShared(p, inner, fua)
		}
		if err := r.merge(p, inner); err != nil {
			return err
		}
	}
	pos := r.span.startBytes
	for _, b := range iov {
		r.crypt(b, pos, true)
		pos += int64(len(b))
	}
	return r.v.store.WriteAt(iov, g.storeOffset(r.span.startBytes), fua)
}

// merge fills the scratch sectors with what they hold now and lays the ragged ends of p over it.
func (r *request) merge(p, inner []byte) error {
	done := 0
	if r.hasHead {
		if err := r.readSector(r.head, r.span.startBytes); err != nil {
			return err
		}
		done = copy(r.head[r.span.headBytes:], p)
	}
	if rest := p[done+len(inner):]; len(rest) > 0 {
		if err := r.readSector(r.tail, r.span.endBytes-int64(len(r.tail))); err != nil {
			return err
		}
		copy(r.tail, rest)
	}
	return nil
}

func (r *request) readSector(sector []byte, offsetBytes int64) error {
	r.one[0] = sector
	if err := r.v.store.ReadAt(r.one[:], r.v.opts.Geometry.storeOffset(offsetBytes)); err != nil {
		return err
	}
	r.crypt(sector, offsetBytes, false)
	return nil
}

// crypt encrypts or decrypts whole sectors in place, on as many processors as are idle.
func (r *request) crypt(buf []byte, offsetBytes int64, encrypt bool) {
	g := r.v.opts.Geometry
	r.job = cryptJob{
		cipher: r.v.cipher, buf: buf, iv: g.iv(offsetBytes), sectorBytes: g.SectorBytes,
		encrypt: encrypt, holes: r.v.opts.Holes,
	}
	r.v.runner.Run(&r.job, len(buf)/g.SectorBytes, grainBytes/g.SectorBytes)
}

// A cryptJob is the crypto of one buffer in units of sectors.
type cryptJob struct {
	cipher      Cipher
	buf         []byte
	iv          uint64
	sectorBytes int
	encrypt     bool
	holes       Holes
}

// Do implements workers.Task.
func (j *cryptJob) Do(loSector, hiSector int) {
	buf := j.buf[loSector*j.sectorBytes : hiSector*j.sectorBytes]
	iv := j.iv + uint64(loSector)*uint64(j.sectorBytes/ivUnitBytes)
	switch {
	case j.encrypt:
		j.cipher.Encrypt(buf, buf, iv)
	case j.holes == HolesDecrypt:
		j.cipher.Decrypt(buf, buf, iv)
	default:
		j.decryptData(buf, iv)
	}
}

// decryptData decrypts what is not a hole. Holes are told by 512-byte chunks, also inside a larger sector: an all-zero chunk
// of ciphertext has a probability of 2^-4096, and XTS encrypts each 16-byte block by itself, so that a sector may be
// filled chunk by chunk.
func (j *cryptJob) decryptData(buf []byte, iv uint64) {
	step := uint64(j.sectorBytes / ivUnitBytes)
	decrypt := func(start, end int) {
		if start < end {
			j.cipher.Decrypt(buf[start:end], buf[start:end], iv+uint64(start/j.sectorBytes)*step)
		}
	}
	start := 0
	for pos := 0; pos < len(buf); pos += j.sectorBytes {
		sector := buf[pos : pos+j.sectorBytes]
		holes := zeroChunks(sector)
		if holes == 0 {
			continue
		}
		decrypt(start, pos)
		start = pos + j.sectorBytes
		if holes == 1<<step-1 {
			continue
		}
		decrypt(pos, start)
		for i := range int(step) {
			if holes>>i&1 != 0 {
				clear(sector[i*chunkBytes : (i+1)*chunkBytes])
			}
		}
	}
	decrypt(start, len(buf))
}

// chunkBytes is the unit of holes.
const chunkBytes = 512

// zeroChunks has a bit set for each chunk of the sector that is all zero bytes.
func zeroChunks(sector []byte) (holes uint64) {
	for i := range len(sector) / chunkBytes {
		chunk := sector[i*chunkBytes : (i+1)*chunkBytes]
		if binary.LittleEndian.Uint64(chunk) == 0 && isZero(chunk) {
			holes |= 1 << i
		}
	}
	return holes
}

// isZero tells whether all bytes are zero.
func isZero(b []byte) bool {
	for len(b) >= 32 {
		a := binary.LittleEndian.Uint64(b) | binary.LittleEndian.Uint64(b[8:]) |
			binary.LittleEndian.Uint64(b[16:]) | binary.LittleEndian.Uint64(b[24:])
		if a != 0 {
			return false
		}
		b = b[32:]
	}
	return true
}
