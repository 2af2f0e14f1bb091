// SPDX-License-Identifier: Apache-2.0

package nbdserver

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/luksgate/luksgate/nbdserver/wire"
)

// open opens the export that the client names, or returns the one that is open under that name.
func (h *handshake) open(name string) (*openedExport, error) {
	if h.opened != nil && h.opened.asked == name {
		return h.opened, nil
	}
	h.closeOpened()
	info, device, err := h.endpoint.Catalog.Open(h.ctx, name, h.peer)
	_ = h.conn.SetDeadline(time.Now().Add(h.server.limits.Handshake)) // what opening took is not the client's fault
	if err != nil {
		return nil, err
	}
	o := &openedExport{asked: name, info: info, device: device, props: device.Properties()}
	fixProperties(&o.props, device.SizeBytes())
	h.opened = o
	return o, nil
}

// fixProperties fills in the defaults and takes back what the protocol does not allow together.
func fixProperties(p *Properties, sizeBytes int64) {
	p.MinBlockBytes = max(p.MinBlockBytes, 1)
	for sizeBytes%int64(p.MinBlockBytes) != 0 { // qemu refuses a size that is no multiple
		p.MinBlockBytes /= 2
	}
	if p.PreferredBlockBytes == 0 {
		p.PreferredBlockBytes = 4096
	}
	p.PreferredBlockBytes = max(p.PreferredBlockBytes, p.MinBlockBytes)
	if p.ReadOnly {
		p.Trim, p.WriteZeroes = false, false
	}
	p.FastZero = p.FastZero && p.WriteZeroes
	p.Contexts = slices.Clone(p.Contexts)
}

func (h *handshake) closeOpened() {
	if h.opened == nil {
		return
	}
	if err := h.opened.device.Close(); err != nil {
		h.server.log.Error("cannot close export", "export", h.opened.info.Name, "error", err)
	}
	h.opened = nil
}

// flags are the transmission flags of the opened export.
func (h *handshake) flags(p *Properties) uint16 {
	f := wire.ExportHasFlags
	for _, x := range []struct {
		on  bool
		bit uint16
	}{
		{p.ReadOnly, wire.ExportReadOnly},
		{p.Flush, wire.ExportFlush},
		{p.FUA, wire.ExportFUA},
		{p.Rotational, wire.ExportRotational},
		{p.Trim, wire.ExportTrim},
		{p.WriteZeroes, wire.ExportWriteZeroes},
		{p.FastZero, wire.ExportFastZero},
		{p.Cache, wire.ExportCache},
		{p.MultiConn, wire.ExportMultiConn},
		{h.mode != modeSimple, wire.ExportDF},
		{h.mode == modeExtended && len(p.Contexts) > 0, wire.ExportBlockStatusPayl},
	} {
		if x.on {
			f |= x.bit
		}
	}
	return f
}

// session ends the negotiation with the opened export.
func (h *handshake) session() (session, error) {
	o := h.opened
	if !h.server.claim(o.info.Name) {
		return session{}, failHandshake(reasonLimit, "export %q has its %d connections", o.info.Name,
			h.server.limits.ConnectionsPerExport)
	}
	s := session{export: o.info, device: o.device, props: o.props, mode: h.mode}
	if h.hasContexts && h.contextsFor == o.asked {
		s.contexts = h.contexts
	}
	h.opened = nil
	return s, nil
}

// exportName handles EXPORT_NAME, which has no error reply: whatever is wrong ends the connection.
func (h *handshake) exportName(data []byte) (session, error) {
	if len(data) > wire.MaxStringBytes {
		return session{}, failHandshake(reasonProtocol, "export name of %d bytes", len(data))
	}
	o, err := h.open(string(data))
	if err != nil {
		return session{}, &handshakeError{h.openReason(err), err}
	}
	sess, err := h.session()
	if err != nil {
		h.opened = o
		return session{}, err
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(o.device.SizeBytes()))
	b = binary.BigEndian.AppendUint16(b, h.flags(&o.props))
	if !h.noZeroes {
		b = append(b, make([]byte, wire.ExportNamePadBytes)...)
	}
	return h.handOver(sess, b)
}

// handOver sends the last message of the negotiation.
func (h *handshake) handOver(sess session, message []byte) (session, error) {
	if err := h.write(message); err != nil {
		h.server.unclaim(sess.export.Name)
		h.opened = &openedExport{info: sess.export, device: sess.device}
		return session{}, err
	}
	return sess, nil
}

// infoOrGo handles INFO and GO.
func (h *handshake) infoOrGo(id uint32, data []byte) (session, bool, error) {
	info, err := wire.ParseInfo(data)
	if err != nil {
		return session{}, false, h.replyError(id, wire.RepErrInvalid, err.Error())
	}
	o, err := h.open(info.Name)
	if err != nil {
		return session{}, false, h.openError(id, info.Name, err)
	}
	out := h.describe(id, o, info.Requests)
	out = wire.AppendOptionReply(out, id, wire.RepAck, nil)
	if id == wire.OptInfo {
		return session{}, false, h.write(out)
	}
	sess, err := h.session()
	if err != nil {
		h.refused(reasonLimit, o.info.Name, err)
		return session{}, false, h.replyError(id, wire.RepErrPolicy, "export has its maximum of connections")
	}
	sess, err = h.handOver(sess, out)
	return sess, err == nil, err
}

// describe encodes what INFO and GO tell about an export. The block sizes come first, because qemu judges the size
// by them, and unasked if requests must be aligned.
func (h *handshake) describe(id uint32, o *openedExport, requests []uint16) []byte {
	p := &o.props
	var out []byte
	if slices.Contains(requests, wire.InfoBlockSize) || p.MinBlockBytes > 1 {
		most := uint32(h.server.limits.RequestBytes)
		if p.MaxBlockBytes != 0 {
			most = min(most, p.MaxBlockBytes)
		}
		block := wire.AppendInfoBlockSize(nil, p.MinBlockBytes, p.PreferredBlockBytes, most)
		out = wire.AppendOptionReply(out, id, wire.RepInfo, block)
	}
	export := wire.AppendInfoExport(nil, uint64(o.device.SizeBytes()), h.flags(p))
	out = wire.AppendOptionReply(out, id, wire.RepInfo, export)
	if slices.Contains(requests, wire.InfoName) {
		name := wire.AppendInfoString(nil, wire.InfoName, cut(o.info.Name, wire.MaxStringBytes))
		out = wire.AppendOptionReply(out, id, wire.RepInfo, name)
	}
	if slices.Contains(requests, wire.InfoDescription) && o.info.Description != "" {
		text := wire.AppendInfoString(nil, wire.InfoDescription, cut(o.info.Description, wire.MaxStringBytes))
		out = wire.AppendOptionReply(out, id, wire.RepInfo, text)
	}
	return out
}

// openReason is the metric's reason for an error of Catalog.Open.
func (h *handshake) openReason(err error) string {
	switch {
	case errors.Is(err, ErrDenied):
		return reasonPolicy
	case errors.Is(err, ErrUnknownExport):
		return reasonUnknown
	}
	return reasonOpen
}

// refused notes and logs why a client does not get what it asks for. The metric counts it when the connection ends, once.
func (h *handshake) refused(reason, export string, err error) {
	again := h.refusal == reason && h.refusedName == export // clients ask with several options
	h.refusal, h.refusedName = reason, export
	if again {
		return
	}
	if ok, dropped := h.server.refused.allow(time.Now(), 10); ok {
		h.server.log.Warn("export not opened", "export", cut(export, 256), "peer", h.peer, "reason", reason, "error", err,
			"lines_left_out", dropped)
	}
}

// openError answers that an export cannot be had. The client is not told why: that is in the log.
func (h *handshake) openError(id uint32, name string, err error) error {
	h.refused(h.openReason(err), name, err)
	switch {
	case errors.Is(err, ErrDenied):
		return h.replyError(id, wire.RepErrPolicy, "not allowed")
	case errors.Is(err, ErrUnknownExport):
		return h.replyError(id, wire.RepErrUnknown, "no such export")
	}
	return h.replyError(id, wire.RepErrUnknown, "export cannot be opened, see the server's log")
}

// metaContext handles LIST_META_CONTEXT and SET_META_CONTEXT.
func (h *handshake) metaContext(id uint32, data []byte) error {
	set := id == wire.OptSetMetaContext
	if set {
		h.clearContexts()
	}
	if h.mode == modeSimple {
		return h.replyError(id, wire.RepErrInvalid, "structured replies come first")
	}
	q, err := wire.ParseMetaContext(data)
	if err != nil {
		return h.replyError(id, wire.RepErrInvalid, err.Error())
	}
	o, err := h.open(q.Name)
	if err != nil {
		return h.openError(id, q.Name, err)
	}
	var out []byte
	for i, context := range o.props.Contexts {
		if !matches(context, q.Queries, set) {
			continue
		}
		n := wire.ContextNone // LIST has no ids
		if set {
			n = uint32(i + 1)
			h.contexts = append(h.contexts, contextID{context, n})
		}
		out = wire.AppendOptionReply(out, id, wire.RepMetaContext, wire.AppendMetaContext(nil, n, context))
	}
	if set {
		h.contextsFor, h.hasContexts = q.Name, true
	}
	return h.write(wire.AppendOptionReply(out, id, wire.RepAck, nil))
}

// matches says whether queries ask for a context. Only LIST knows "everything" (no query) and "all of a namespace"
// ("base:", "qemu:dirty-bitmap:"); a query that is unknown selects nothing.
func matches(context string, queries []string, set bool) bool {
	if !set && len(queries) == 0 {
		return true
	}
	for _, q := range queries {
		if q == context || !set && strings.HasSuffix(q, ":") && strings.HasPrefix(context, q) {
			return true
		}
	}
	return false
}

func (h *handshake) clearContexts() {
	h.contexts, h.contextsFor, h.hasContexts = nil, "", false
}
