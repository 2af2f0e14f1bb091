// SPDX-License-Identifier: Apache-2.0

// Package wire encodes and decodes what an NBD server reads and writes: the handshake's headers and replies, requests in
// the compact and the extended form, simple replies, and structured and extended reply chunks.
//
// It does no I/O and keeps no state. Numbers and structs come from go-nbd's protocol package where that has them, and
// else from the NBD protocol document (proto.md in the NetworkBlockDevice/nbd repository), whose section names the
// comments cite.
package wire

import "github.com/pojntfx/go-nbd/pkg/protocol"

// Magic numbers (proto.md, "Values").
const (
	MagicOldstyle        = protocol.NEGOTIATION_MAGIC_OLDSTYLE
	MagicOption          = protocol.NEGOTIATION_MAGIC_OPTION
	MagicOptionReply     = protocol.NEGOTIATION_MAGIC_REPLY
	MagicRequest         = protocol.TRANSMISSION_MAGIC_REQUEST
	MagicSimpleReply     = protocol.TRANSMISSION_MAGIC_REPLY
	MagicStructuredReply = uint32(0x668e33ef)
	MagicExtendedRequest = uint32(0x21e41c71)
	MagicExtendedReply   = uint32(0x6e8a278c)
)

// Handshake flags of the server and of the client ("Handshake flags", "Client flags").
const (
	FlagFixedNewstyle       = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE
	FlagNoZeroes            = uint16(1 << 1)
	ClientFlagFixedNewstyle = uint32(1 << 0)
	ClientFlagNoZeroes      = uint32(1 << 1)
)

// Options ("Option types").
const (
	OptExportName      = uint32(1)
	OptAbort           = protocol.NEGOTIATION_ID_OPTION_ABORT
	OptList            = protocol.NEGOTIATION_ID_OPTION_LIST
	OptPeekExport      = uint32(4)
	OptStartTLS        = uint32(5)
	OptInfo            = protocol.NEGOTIATION_ID_OPTION_INFO
	OptGo              = protocol.NEGOTIATION_ID_OPTION_GO
	OptStructuredReply = uint32(8)
	OptListMetaContext = uint32(9)
	OptSetMetaContext  = uint32(10)
	OptExtendedHeaders = uint32(11)
)

// Option replies ("Option reply types"). Errors have the top bit set.
const (
	RepAck                = protocol.NEGOTIATION_TYPE_REPLY_ACK
	RepServer             = protocol.NEGOTIATION_TYPE_REPLY_SERVER
	RepInfo               = protocol.NEGOTIATION_TYPE_REPLY_INFO
	RepMetaContext        = uint32(4)
	RepErrUnsupported     = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	RepErrPolicy          = uint32(1<<31 | 2)
	RepErrInvalid         = uint32(1<<31 | 3)
	RepErrPlatform        = uint32(1<<31 | 4)
	RepErrTLSRequired     = uint32(1<<31 | 5)
	RepErrUnknown         = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
	RepErrShutdown        = uint32(1<<31 | 7)
	RepErrBlockSizeNeeded = uint32(1<<31 | 8)
	RepErrTooBig          = uint32(1<<31 | 9)
	RepErrExtendedNeeded  = uint32(1<<31 | 10)
)

// Information types of INFO and GO.
const (
	InfoExport      = protocol.NEGOTIATION_TYPE_INFO_EXPORT
	InfoName        = protocol.NEGOTIATION_TYPE_INFO_NAME
	InfoDescription = protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION
	InfoBlockSize   = protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE
)

// Transmission flags ("Transmission flags").
const (
	ExportHasFlags        = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	ExportReadOnly        = uint16(1 << 1)
	ExportFlush           = uint16(1 << 2)
	ExportFUA             = uint16(1 << 3)
	ExportRotational      = uint16(1 << 4)
	ExportTrim            = uint16(1 << 5)
	ExportWriteZeroes     = uint16(1 << 6)
	ExportDF              = uint16(1 << 7)
	ExportMultiConn       = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
	ExportCache           = uint16(1 << 10)
	ExportFastZero        = uint16(1 << 11)
	ExportBlockStatusPayl = uint16(1 << 12)
)

// Commands ("Request types").
const (
	CmdRead        = protocol.TRANSMISSION_TYPE_REQUEST_READ
	CmdWrite       = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	CmdDisc        = protocol.TRANSMISSION_TYPE_REQUEST_DISC
	CmdFlush       = uint16(3)
	CmdTrim        = uint16(4)
	CmdCache       = uint16(5)
	CmdWriteZeroes = uint16(6)
	CmdBlockStatus = uint16(7)
)

// Command flags ("Command flags").
const (
	CmdFlagFUA        = uint16(1 << 0)
	CmdFlagNoHole     = uint16(1 << 1)
	CmdFlagDF         = uint16(1 << 2)
	CmdFlagReqOne     = uint16(1 << 3)
	CmdFlagFastZero   = uint16(1 << 4)
	CmdFlagPayloadLen = uint16(1 << 5)
)

// Chunk flags and types ("Structured reply types").
const (
	ChunkFlagDone = uint16(1 << 0)

	ChunkNone           = uint16(0)
	ChunkOffsetData     = uint16(1)
	ChunkOffsetHole     = uint16(2)
	ChunkBlockStatus    = uint16(5)
	ChunkBlockStatusExt = uint16(6)
	ChunkError          = uint16(1<<15 | 1)
	ChunkErrorOffset    = uint16(1<<15 | 2)
)

// Errors ("Error values").
const (
	ErrPerm     = protocol.TRANSMISSION_ERROR_EPERM
	ErrIO       = uint32(5)
	ErrNoMem    = uint32(12)
	ErrInvalid  = protocol.TRANSMISSION_ERROR_EINVAL
	ErrNoSpace  = uint32(28)
	ErrOverflow = uint32(75)
	ErrNotSup   = uint32(95)
	ErrShutdown = uint32(108)
)

// Sizes in bytes of headers on the wire.
const (
	GreetingBytes          = 18
	OptionHeaderBytes      = 16
	OptionReplyHeaderBytes = 20
	RequestBytes           = 28
	ExtendedRequestBytes   = 32
	SimpleReplyBytes       = 16
	ChunkHeaderBytes       = 20
	ExtendedChunkBytes     = 32
	// ExportNamePadBytes are the zeros after an answer to EXPORT_NAME for clients without NO_ZEROES.
	ExportNamePadBytes = 124
	// MaxStringBytes is the longest string ("Values": names, descriptions and the like).
	MaxStringBytes = 4096
)

// ContextNone is the id of no metadata context; ids on the wire count from 1.
const ContextNone = uint32(0)
