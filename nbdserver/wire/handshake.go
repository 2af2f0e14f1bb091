// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// ErrMalformed says that bytes of a client do not have the form that the protocol gives them.
var ErrMalformed = errors.New("malformed")

// AppendGreeting appends the server's first message.
func AppendGreeting(dst []byte, flags uint16) []byte {
	dst = binary.BigEndian.AppendUint64(dst, MagicOldstyle)
	dst = binary.BigEndian.AppendUint64(dst, MagicOption)
	return binary.BigEndian.AppendUint16(dst, flags)
}

// Option decodes an option's header of OptionHeaderBytes.
func Option(b []byte) (protocol.NegotiationOptionHeader, error) {
	h := protocol.NegotiationOptionHeader{
		OptionMagic: binary.BigEndian.Uint64(b),
		ID:          binary.BigEndian.Uint32(b[8:]),
		Length:      binary.BigEndian.Uint32(b[12:]),
	}
	if h.OptionMagic != MagicOption {
		return h, fmt.Errorf("%w option: magic %#x, expected %#x", ErrMalformed, h.OptionMagic, MagicOption)
	}
	return h, nil
}

// AppendOptionReply appends the header of an option's reply and its data.
func AppendOptionReply(dst []byte, option, reply uint32, data []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, MagicOptionReply)
	dst = binary.BigEndian.AppendUint32(dst, option)
	dst = binary.BigEndian.AppendUint32(dst, reply)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(data)))
	return append(dst, data...)
}

// AppendServer appends the data of a RepServer reply.
func AppendServer(dst []byte, name, description string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(name)))
	dst = append(dst, name...)
	return append(dst, description...)
}

// AppendInfoExport appends the data of an InfoExport reply.
func AppendInfoExport(dst []byte, sizeBytes uint64, flags uint16) []byte {
	dst = binary.BigEndian.AppendUint16(dst, InfoExport)
	dst = binary.BigEndian.AppendUint64(dst, sizeBytes)
	return binary.BigEndian.AppendUint16(dst, flags)
}

// AppendInfoString appends the data of an InfoName or InfoDescription reply.
func AppendInfoString(dst []byte, kind uint16, text string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, kind)
	return append(dst, text...)
}

// AppendInfoBlockSize appends the data of an InfoBlockSize reply; sizes are bytes.
func AppendInfoBlockSize(dst []byte, minimum, preferred, maximum uint32) []byte {
	dst = binary.BigEndian.AppendUint16(dst, InfoBlockSize)
	dst = binary.BigEndian.AppendUint32(dst, minimum)
	dst = binary.BigEndian.AppendUint32(dst, preferred)
	return binary.BigEndian.AppendUint32(dst, maximum)
}

// AppendMetaContext appends the data of a RepMetaContext reply.
func AppendMetaContext(dst []byte, id uint32, name string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, id)
	return append(dst, name...)
}

// Info is the data of INFO and GO.
type Info struct {
	Name     string
	Requests []uint16
}

// ParseInfo decodes the data of INFO and GO.
func ParseInfo(b []byte) (Info, error) {
	name, rest, err := takeString(b)
	if err != nil {
		return Info{}, err
	}
	if len(rest) < 2 {
		return Info{}, fmt.Errorf("%w information request: no count", ErrMalformed)
	}
	count := int(binary.BigEndian.Uint16(rest))
	rest = rest[2:]
	if len(rest) != count*2 {
		return Info{}, fmt.Errorf("%w information request: %d bytes for %d items", ErrMalformed, len(rest), count)
	}
	info := Info{Name: name, Requests: make([]uint16, count)}
	for i := range info.Requests {
		info.Requests[i] = binary.BigEndian.Uint16(rest[2*i:])
	}
	return info, nil
}

// MetaContext is the data of LIST_META_CONTEXT and SET_META_CONTEXT.
type MetaContext struct {
	Name    string
	Queries []string
}

// ParseMetaContext decodes the data of LIST_META_CONTEXT and SET_META_CONTEXT.
func ParseMetaContext(b []byte) (MetaContext, error) {
	name, rest, err := takeString(b)
	if err != nil {
		return MetaContext{}, err
	}
	if len(rest) < 4 {
		return MetaContext{}, fmt.Errorf("%w metadata query: no count", ErrMalformed)
	}
	count := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	if uint64(count)*4 > uint64(len(rest)) {
		return MetaContext{}, fmt.Errorf("%w metadata query: %d bytes for %d queries", ErrMalformed, len(rest), count)
	}
	m := MetaContext{Name: name, Queries: make([]string, count)}
	for i := range m.Queries {
		if m.Queries[i], rest, err = takeString(rest); err != nil {
			return MetaContext{}, err
		}
	}
	if len(rest) != 0 {
		return MetaContext{}, fmt.Errorf("%w metadata query: %d bytes too many", ErrMalformed, len(rest))
	}
	return m, nil
}

// takeString cuts a string with its 32-bit length off b.
func takeString(b []byte) (string, []byte, error) {
	if len(b) < 4 {
		return "", nil, fmt.Errorf("%w string: no length", ErrMalformed)
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if n > MaxStringBytes {
		return "", nil, fmt.Errorf("%w string: %d bytes, at most %d allowed", ErrMalformed, n, MaxStringBytes)
	}
	if uint64(n) > uint64(len(b)) {
		return "", nil, fmt.Errorf("%w string: %d bytes announced, %d there", ErrMalformed, n, len(b))
	}
	return string(b[:n]), b[n:], nil
}
