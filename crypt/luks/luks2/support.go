// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"fmt"
	"strings"

	"github.com/luksgate/luksgate/crypt/luks/lukserr"
)

// DataSegment returns the one segment that holds all data, or an error that matches lukserr.Unsupported and names what
// about this valid header is beyond us: requirements, several segments, other types, integrity. Whether its cipher can be
// used is the caller's question.
func (m *Metadata) DataSegment() (*Segment, error) {
	unsupported := func(format string, args ...any) (*Segment, error) {
		return nil, fmt.Errorf("%w: %s", lukserr.Unsupported, fmt.Sprintf(format, args...))
	}
	for _, r := range m.Config.Requirements {
		switch {
		case isOnlineReencrypt(r):
			return unsupported("LUKS2 reencryption is under way (%q), finish it with cryptsetup reencrypt --resume-only", clip(r))
		case r == "offline-reencrypt":
			return unsupported("LUKS2 offline reencryption is under way, finish it with cryptsetup-reencrypt")
		case r == "opal" || strings.HasPrefix(r, "opal-v"):
			return unsupported("LUKS2 with hardware encryption (%q)", clip(r))
		default:
			return unsupported("LUKS2 mandatory requirement %q", clip(r))
		}
	}
	for i := range m.Segments {
		s := &m.Segments[i]
		switch {
		case s.isBackup():
			return unsupported("LUKS2 segment %d is a backup segment of reencryption", s.ID)
		case s.Type != "crypt":
			return unsupported("LUKS2 segment type %q", clip(s.Type))
		case s.Integrity != "":
			return unsupported("LUKS2 with integrity protection (%q)", clip(s.Integrity))
		}
	}
	if len(m.Segments) != 1 {
		return unsupported("LUKS2 with %d data segments", len(m.Segments))
	}
	return &m.Segments[0], nil
}
