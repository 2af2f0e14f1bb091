// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"fmt"
	"strings"

	librbd "github.com/ceph/go-ceph/rbd"

	"github.com/luksgate/luksgate/gateway/image"
)

// takeLockAlone makes sure that nobody else has the image open for writing, and takes the lock. Who opens it between the
// two finds the lock taken.
func (m *Image) takeLockAlone() error {
	m.alone, m.opts.Lock = true, LockExclusive
	if !m.hasLock {
		m.opts.Lock = LockNone
	}
	others, err := m.otherWatchers()
	if err != nil {
		return fmt.Errorf("%s: asking who has it open: %w", m.ref, err)
	}
	if len(others) > 0 {
		return fmt.Errorf("%s: %w: it is open for writing by %s; end that first (the cluster takes 30 seconds to notice that a client died)",
			m.ref, image.ErrBusy, strings.Join(others, ", "))
	}
	if !m.hasLock {
		m.opts.Logger.Warn("the image has no exclusive-lock feature: see to it that nobody else opens it now")
		return nil
	}
	return m.lockExclusive()
}

// otherWatchers describes the clients besides us that have the image open for writing: client id and address. Those that
// only read do not tell the cluster.
func (m *Image) otherWatchers() ([]string, error) {
	img, err := librbd.OpenImageReadOnly(m.ioctx, m.ref.Image, librbd.NoSnapshot)
	if err != nil {
		return nil, err
	}
	defer func() { _ = img.Close() }()
	watchers, err := img.ListWatchers()
	if err != nil {
		return nil, err
	}
	var seen []string
	for _, w := range watchers {
		if uint64(w.Id) != m.cluster.conn.GetInstanceID() {
			seen = append(seen, fmt.Sprintf("client.%d at %s", w.Id, w.Addr))
		}
	}
	return seen, nil
}
