// SPDX-License-Identifier: Apache-2.0

package nbdserver

import "github.com/luksgate/luksgate/nbdserver/wire"

// mode is the form of replies that was negotiated.
type mode uint8

const (
	modeSimple mode = iota
	modeStructured
	modeExtended
)

// statusPayloadBytes is the longest payload of a BLOCK_STATUS: room for far more contexts than there are.
const statusPayloadBytes = 16 << 10

// requestRules is what validate needs to know about a connection; it is constant during transmission.
type requestRules struct {
	props        Properties
	mode         mode
	sizeBytes    uint64
	maxBytes     uint64 // of READ and WRITE
	hasContexts  bool
	alignMaskLow uint64 // minimum block size - 1
}

// fault is why a request is refused.
type fault struct {
	errno uint32
	text  string
}

var noFault = fault{}

// flagsOf are the flags that each command takes, FUA apart, which is for all of them.
var flagsOf = [...]uint16{
	wire.CmdRead:        wire.CmdFlagDF,
	wire.CmdWrite:       wire.CmdFlagPayloadLen,
	wire.CmdDisc:        0,
	wire.CmdFlush:       0,
	wire.CmdTrim:        0,
	wire.CmdCache:       0,
	wire.CmdWriteZeroes: wire.CmdFlagNoHole | wire.CmdFlagFastZero,
	wire.CmdBlockStatus: wire.CmdFlagReqOne | wire.CmdFlagPayloadLen,
}

// validate says whether a request may be executed; whoever executes it relies on that. The payload's size is not its
// business. Numbers are those of proto.md, "Request types": past the end is ENOSPC for writes and EINVAL for the rest.
func (r *requestRules) validate(q *wire.Request) fault {
	if int(q.Command) >= len(flagsOf) {
		return fault{wire.ErrInvalid, "unknown command"}
	}
	if f := r.validateFlags(q); f != noFault {
		return f
	}
	if q.Command == wire.CmdFlush || q.Command == wire.CmdDisc {
		return noFault
	}
	if f := r.validateCapability(q); f != noFault {
		return f
	}
	if q.Command == wire.CmdBlockStatus && q.Flags&wire.CmdFlagPayloadLen != 0 {
		if q.LengthBytes > statusPayloadBytes {
			return fault{wire.ErrInvalid, "payload too large"}
		}
		return noFault // its length is that of the payload, where the range is
	}
	return r.validateRange(q)
}

func (r *requestRules) validateFlags(q *wire.Request) fault {
	allowed := flagsOf[q.Command]
	if r.props.FUA {
		allowed |= wire.CmdFlagFUA
	}
	if r.mode == modeSimple {
		allowed &^= wire.CmdFlagDF
	}
	if r.mode != modeExtended {
		allowed &^= wire.CmdFlagPayloadLen
	}
	if !r.props.FastZero {
		allowed &^= wire.CmdFlagFastZero
	}
	if q.Flags&^allowed != 0 {
		return fault{wire.ErrInvalid, "flag not allowed here"}
	}
	return noFault
}

func (r *requestRules) validateCapability(q *wire.Request) fault {
	no := fault{wire.ErrInvalid, "command not offered by this export"}
	switch q.Command {
	case wire.CmdWrite, wire.CmdTrim, wire.CmdWriteZeroes:
		if r.props.ReadOnly {
			return fault{wire.ErrPerm, "export is read-only"}
		}
	}
	switch {
	case q.Command == wire.CmdTrim && !r.props.Trim,
		q.Command == wire.CmdWriteZeroes && !r.props.WriteZeroes,
		q.Command == wire.CmdCache && !r.props.Cache:
		return no
	case q.Command == wire.CmdBlockStatus && !r.hasContexts:
		return fault{wire.ErrInvalid, "no metadata context was negotiated"}
	}
	return noFault
}

func (r *requestRules) validateRange(q *wire.Request) fault {
	if q.OffsetBytes > r.sizeBytes || q.LengthBytes > r.sizeBytes-q.OffsetBytes {
		if q.Command == wire.CmdWrite || q.Command == wire.CmdWriteZeroes {
			return fault{wire.ErrNoSpace, "past the end of the export"}
		}
		return fault{wire.ErrInvalid, "past the end of the export"}
	}
	if q.LengthBytes > r.maxBytes && (q.Command == wire.CmdRead || q.Command == wire.CmdWrite) {
		return fault{wire.ErrInvalid, "larger than the largest block"}
	}
	if (q.OffsetBytes|q.LengthBytes)&r.alignMaskLow != 0 {
		return fault{wire.ErrInvalid, "not aligned to the smallest block"}
	}
	if q.Command == wire.CmdBlockStatus && q.LengthBytes == 0 {
		return fault{wire.ErrInvalid, "block status of nothing"}
	}
	return noFault
}

// payloadBytes is how much data follows the header of a request, whether the request is right or wrong.
func (r *requestRules) payloadBytes(q *wire.Request) uint64 {
	if q.Command == wire.CmdWrite || r.mode == modeExtended && q.Flags&wire.CmdFlagPayloadLen != 0 {
		return q.LengthBytes
	}
	return 0
}
