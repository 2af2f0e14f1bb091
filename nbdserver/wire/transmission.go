// SPDX-License-Identifier: Apache-2.0

package wire

import "encoding/binary"

// Request is a request's header. LengthBytes is the effect length, except with CmdFlagPayloadLen in the extended form.
type Request struct {
	Flags       uint16
	Command     uint16
	Cookie      uint64
	OffsetBytes uint64
	LengthBytes uint64
}

// ParseRequest decodes a compact request of RequestBytes. It returns false if the magic is not there.
func ParseRequest(b []byte, r *Request) bool {
	_ = b[RequestBytes-1]
	if binary.BigEndian.Uint32(b) != MagicRequest {
		return false
	}
	r.Flags = binary.BigEndian.Uint16(b[4:])
	r.Command = binary.BigEndian.Uint16(b[6:])
	r.Cookie = binary.BigEndian.Uint64(b[8:])
	r.OffsetBytes = binary.BigEndian.Uint64(b[16:])
	r.LengthBytes = uint64(binary.BigEndian.Uint32(b[24:]))
	return true
}

// ParseExtendedRequest decodes an extended request of ExtendedRequestBytes. It returns false if the magic is not there.
func ParseExtendedRequest(b []byte, r *Request) bool {
	_ = b[ExtendedRequestBytes-1]
	if binary.BigEndian.Uint32(b) != MagicExtendedRequest {
		return false
	}
	r.Flags = binary.BigEndian.Uint16(b[4:])
	r.Command = binary.BigEndian.Uint16(b[6:])
	r.Cookie = binary.BigEndian.Uint64(b[8:])
	r.OffsetBytes = binary.BigEndian.Uint64(b[16:])
	r.LengthBytes = binary.BigEndian.Uint64(b[24:])
	return true
}

// PutRequest encodes a compact request into RequestBytes of b; for clients.
func PutRequest(b []byte, r *Request) {
	_ = b[RequestBytes-1]
	binary.BigEndian.PutUint32(b, MagicRequest)
	putRequestFields(b, r)
	binary.BigEndian.PutUint32(b[24:], uint32(r.LengthBytes))
}

// PutExtendedRequest encodes an extended request into ExtendedRequestBytes of b; for clients.
func PutExtendedRequest(b []byte, r *Request) {
	_ = b[ExtendedRequestBytes-1]
	binary.BigEndian.PutUint32(b, MagicExtendedRequest)
	putRequestFields(b, r)
	binary.BigEndian.PutUint64(b[24:], r.LengthBytes)
}

func putRequestFields(b []byte, r *Request) {
	binary.BigEndian.PutUint16(b[4:], r.Flags)
	binary.BigEndian.PutUint16(b[6:], r.Command)
	binary.BigEndian.PutUint64(b[8:], r.Cookie)
	binary.BigEndian.PutUint64(b[16:], r.OffsetBytes)
}

// PutSimpleReply encodes a simple reply and returns its size in bytes.
func PutSimpleReply(b []byte, errno uint32, cookie uint64) int {
	_ = b[SimpleReplyBytes-1]
	binary.BigEndian.PutUint32(b, MagicSimpleReply)
	binary.BigEndian.PutUint32(b[4:], errno)
	binary.BigEndian.PutUint64(b[8:], cookie)
	return SimpleReplyBytes
}

// Chunk is the header of one reply chunk.
type Chunk struct {
	Flags        uint16
	Type         uint16
	Cookie       uint64
	OffsetBytes  uint64 // of the request; on the wire only in extended chunks
	PayloadBytes uint64
}

// Put encodes the header and returns its size in bytes. Extended says which of the two forms is in use.
func (c *Chunk) Put(b []byte, extended bool) int {
	magic := MagicStructuredReply
	if extended {
		magic = MagicExtendedReply
	}
	binary.BigEndian.PutUint32(b, magic)
	binary.BigEndian.PutUint16(b[4:], c.Flags)
	binary.BigEndian.PutUint16(b[6:], c.Type)
	binary.BigEndian.PutUint64(b[8:], c.Cookie)
	if extended {
		binary.BigEndian.PutUint64(b[16:], c.OffsetBytes)
		binary.BigEndian.PutUint64(b[24:], c.PayloadBytes)
		return ExtendedChunkBytes
	}
	binary.BigEndian.PutUint32(b[16:], uint32(c.PayloadBytes))
	return ChunkHeaderBytes
}

// HeaderBytes is the size of a chunk's header.
func HeaderBytes(extended bool) int {
	if extended {
		return ExtendedChunkBytes
	}
	return ChunkHeaderBytes
}

// PutDataChunk encodes everything of a ChunkOffsetData but the data itself, and returns the size in bytes.
func PutDataChunk(b []byte, extended bool, flags uint16, cookie, requestOffset, offset uint64, dataBytes int) int {
	c := Chunk{flags, ChunkOffsetData, cookie, requestOffset, uint64(dataBytes) + 8}
	n := c.Put(b, extended)
	binary.BigEndian.PutUint64(b[n:], offset)
	return n + 8
}

// PutHoleChunk encodes a ChunkOffsetHole and returns its size in bytes.
func PutHoleChunk(b []byte, extended bool, flags uint16, cookie, requestOffset, offset uint64, holeBytes int) int {
	c := Chunk{flags, ChunkOffsetHole, cookie, requestOffset, 12}
	n := c.Put(b, extended)
	binary.BigEndian.PutUint64(b[n:], offset)
	binary.BigEndian.PutUint32(b[n+8:], uint32(holeBytes))
	return n + 12
}

// PutErrorChunk encodes a ChunkError that ends the reply and returns its size in bytes.
func PutErrorChunk(b []byte, extended bool, cookie, requestOffset uint64, errno uint32, text string) int {
	c := Chunk{ChunkFlagDone, ChunkError, cookie, requestOffset, uint64(6 + len(text))}
	n := c.Put(b, extended)
	binary.BigEndian.PutUint32(b[n:], errno)
	binary.BigEndian.PutUint16(b[n+4:], uint16(len(text)))
	return n + 6 + copy(b[n+6:], text)
}

// MaxDataHeaderBytes is the most that PutDataChunk and PutHoleChunk write.
const MaxDataHeaderBytes = ExtendedChunkBytes + 12
