// SPDX-License-Identifier: Apache-2.0

// Package workload says which requests a benchmark makes: the n-th request of a client is a function of the seed, so that
// all contestants do the same, and a run can be repeated.
package workload

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
)

// A Kind is what the requests are, with fio's names.
type Kind string

// The kinds. The mixed ones read 70 % and write 30 %.
const (
	RandomRead      Kind = "randread"
	RandomWrite     Kind = "randwrite"
	RandomMixed     Kind = "randrw"
	SequentialRead  Kind = "read"
	SequentialWrite Kind = "write"
	SequentialMixed Kind = "rw"
)

// Kinds are all of them.
var Kinds = []Kind{RandomRead, RandomWrite, RandomMixed, SequentialRead, SequentialWrite, SequentialMixed}

// readPercent of a mixed workload.
const readPercent = 70

// Writes tells whether there are writes among the requests.
func (k Kind) Writes() bool { return k != RandomRead && k != SequentialRead }

// Reads tells whether there are reads among the requests.
func (k Kind) Reads() bool { return k != RandomWrite && k != SequentialWrite }

// Random tells whether offsets are random.
func (k Kind) Random() bool { return k == RandomRead || k == RandomWrite || k == RandomMixed }

// Words is the kind in words.
func (k Kind) Words() string {
	order, what := "sequential", "mixed 70/30"
	if k.Random() {
		order = "random"
	}
	switch {
	case !k.Writes():
		what = "read"
	case !k.Reads():
		what = "write"
	}
	return order + " " + what
}

// A Workload is what every contestant does for a while.
type Workload struct {
	Kind       Kind `json:"kind"`
	BlockBytes int  `json:"block_bytes"`
	// Depth is the number of requests that each client keeps in flight.
	Depth int `json:"depth"`
	// Clients is the number of clients of each image: connections, over NBD.
	Clients int `json:"clients"`
	Images  int `json:"images"`
}

// String is a short name, such as "randread 4k depth 16".
func (w Workload) String() string {
	s := fmt.Sprintf("%s %s depth %d", w.Kind, SizeText(w.BlockBytes), w.Depth)
	if w.Clients > 1 {
		s += fmt.Sprintf(" clients %d", w.Clients)
	}
	if w.Images > 1 {
		s += fmt.Sprintf(" images %d", w.Images)
	}
	return s
}

// SizeText is a size as fio writes it: 4k, 1m.
func SizeText(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dm", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dk", n>>10)
	default:
		return fmt.Sprint(n)
	}
}

// A Request is one of a client's.
type Request struct {
	Write       bool
	OffsetBytes int64
}

// A Client makes the requests of one client of one image. It never changes, so that many goroutines may use it.
type Client struct {
	kind       Kind
	blockBytes int64
	blocks     uint64
	start      uint64 // block where a sequential one begins
	seed       uint64
}

// NewClient is client number i of all clients of an image of sizeBytes, of which there are at least BlockBytes. Clients of
// different images have different numbers too. Sequential clients of one image begin at equal distances.
func (w Workload) NewClient(seed uint64, i int, sizeBytes int64) Client {
	blocks := uint64(sizeBytes / int64(w.BlockBytes))
	ofImage := uint64(i % w.Clients)
	return Client{
		kind: w.Kind, blockBytes: int64(w.BlockBytes), blocks: blocks,
		start: blocks * ofImage / uint64(w.Clients),
		seed:  mix(mix(seed) + uint64(i)),
	}
}

// At is the n-th request.
func (c Client) At(n uint64) Request {
	h := mix(c.seed + n)
	block := (c.start + n) % c.blocks
	if c.kind.Random() {
		block, _ = bits.Mul64(h, c.blocks) // 0 to blocks-1, evenly
	}
	r := Request{OffsetBytes: int64(block) * c.blockBytes}
	switch {
	case !c.kind.Reads():
		r.Write = true
	case c.kind.Writes():
		r.Write = mix(h)%100 >= readPercent
	}
	return r
}

// mix scatters a number over 64 bits (the finalizer of SplitMix64 by Steele, Lea and Flood).
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Noise fills b with bytes that do not compress; the same seed gives the same bytes.
func Noise(seed uint64, b []byte) {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
}
