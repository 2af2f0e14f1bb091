// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/gateway/image/rbd"
	"github.com/luksgate/luksgate/gateway/key"
)

// A link is one image of a chain of clones: the image itself, then its parent and so on.
type link struct {
	name   string
	info   *rbd.Info    // of a parent
	rbd    *rbd.Image   // nil for the image itself where that is none
	header *luks.Header // nil: plaintext
	at     io.ReaderAt  // where the header is
}

// same tells that two links show bytes that are encrypted alike. An image without a header of its own shows its
// parent's, so the same UUID means the same volume key.
func (l *link) same(o *link) bool {
	if l.header == nil || o.header == nil {
		return l.header == o.header
	}
	return l.header.UUID == o.header.UUID && l.header.DataOffsetBytes == o.header.DataOffsetBytes &&
		l.header.SectorBytes == o.header.SectorBytes && l.header.IVOffset == o.header.IVOffset
}

// keySources are the sources of the image's passphrase and its parents', nearest first.
func (c *Config) keySources() []key.Source { return append([]key.Source{c.Key}, c.ParentKeys...) }

// keyOf is the number of the key for a level of the chain. One that is assumed was given for an earlier level only.
func (c *Config) keyOf(level int) (number int, assumed bool) {
	last := len(c.ParentKeys)
	return min(level, last), level > last
}

// readChain reads the headers of all images that can be seen through this one, up to the first that is plaintext. It
// fails where there are more keys than images. Its images are closed with the source.
func (o *opener) readChain(header *luks.Header) error {
	o.chain = []*link{{name: o.cfg.headerName(), rbd: o.src.rbd, header: header, at: o.header}}
	if header.Detached {
		if len(o.cfg.ParentKeys) > 0 {
			return NewUsageError("%s: with a detached header there is one key", o.cfg.Image)
		}
		return o.checkDetachedChain(header)
	}
	levels := 0
	for p := o.info(); p != nil; p = p.Parent {
		levels++
	}
	if n := 1 + len(o.cfg.ParentKeys); n > levels {
		return NewUsageError("%s: %d keys were given, and there are %d images in its chain", o.cfg.Image, n, levels)
	}
	if levels == 1 {
		if header.CloneMagic {
			return o.checkOrphan(o.info(), header)
		}
		return nil
	}
	for p := o.src.info.Parent; p != nil; p = p.Parent {
		l, err := o.readLink(p, len(o.chain))
		if err != nil {
			return fmt.Errorf("%s: its parent %w", o.cfg.Image, err)
		}
		o.chain = append(o.chain, l)
		if l.header == nil {
			return nil // what a plaintext image shows of its parents is plaintext too
		}
	}
	return nil
}

// readLink opens a parent and reads its header.
func (o *opener) readLink(info *rbd.Info, level int) (*link, error) {
	m, err := o.src.openParent(info)
	if err != nil {
		return nil, err
	}
	l := &link{name: info.Name, info: info, rbd: m, at: readerAt{m}}
	l.header, err = luks.Read(l.at, m.SizeBytes(), luks.ReadOptions{})
	if errors.Is(err, luks.ErrNotLUKS) {
		if number, assumed := o.cfg.keyOf(level); !assumed {
			return nil, fmt.Errorf("%s: %w, and a key was given for it (%s)", l.name, err, o.cfg.keySources()[number])
		}
		l.header = nil
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.name, err)
	}
	if l.header.CloneMagic && info.Parent == nil {
		if err := o.checkOrphan(info, l.header); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// info is what is known of the image itself: no more than its name, where that is none in RBD.
func (o *opener) info() *rbd.Info {
	if o.src.info != nil {
		return o.src.info
	}
	return &rbd.Info{Name: o.cfg.Image.String()}
}

// checkOrphan looks at an image whose header says that it is a clone, and which has no parent. A snapshot may be so: when
// its image was flattened, it got all that it showed of the parent too, and the image's header, not the snapshot's, got
// another magic. Flattened without the keys, by rbd flatten, it would hold noise, and the image's magic would be the old one.
func (o *opener) checkOrphan(info *rbd.Info, header *luks.Header) error {
	image, _, isSnapshot := strings.Cut(info.Name, "@")
	if isSnapshot && o.src.cluster != nil {
		now, err := o.src.headerOf(&rbd.Info{Name: image, ID: info.ID})
		if err == nil && !now.CloneMagic && now.UUID == header.UUID {
			return nil
		}
	}
	return fmt.Errorf("%s: %w: its header says that it is a clone, and it has no parent", info.Name, luks.ErrUnsupported)
}

// checkDetachedChain makes sure that no parent has a header of its own: what a detached header says goes for all.
func (o *opener) checkDetachedChain(header *luks.Header) error {
	for parent := o.info().Parent; parent != nil; parent = parent.Parent {
		theirs, err := o.src.headerOf(parent)
		if errors.Is(err, luks.ErrNotLUKS) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: its parent %s: %w", o.cfg.Image, parent.Name, err)
		}
		if theirs.UUID != header.UUID || theirs.DataOffsetBytes != header.DataOffsetBytes {
			return fmt.Errorf("%s: %w: its parent %s is not encrypted with the same volume key", o.cfg.Image, luks.ErrUnsupported, parent.Name)
		}
	}
	return nil
}

// layered tells that not everything that can be seen through the image is encrypted alike.
func (o *opener) layered() bool {
	for _, l := range o.chain[1:] {
		if !l.same(o.chain[0]) {
			return true
		}
	}
	return false
}

// fetch gets the passphrases, one for each key. The caller releases them, also after an error.
func (o *opener) fetch(ctx context.Context) ([]*secret.Bytes, error) {
	var all []*secret.Bytes
	for _, source := range o.cfg.keySources() {
		p, err := source.Passphrase(ctx)
		if err != nil {
			return all, err
		}
		all = append(all, p)
	}
	return all, nil
}

// unlock opens the header of one level.
func (o *opener) unlock(ctx context.Context, level int, passphrases []*secret.Bytes) (*luks.VolumeKey, error) {
	l := o.chain[level]
	number, assumed := o.cfg.keyOf(level)
	start := time.Now()
	vk, err := l.header.Unlock(ctx, l.at, passphrases[number], luks.UnlockOptions{KDFMemoryLimitBytes: o.cfg.KDFMemoryLimitBytes})
	if o.cfg.Observer != nil {
		o.cfg.Observer.Unlocked(time.Since(start), err)
	}
	if err == nil {
		return vk, nil
	}
	err = unlockError(l.name, o.cfg.keySources()[number], err, passphrases[number])
	if assumed && errors.Is(err, luks.ErrWrongPassphrase) {
		err = fmt.Errorf("%w; no key was given for it: name one more --key-file, the keys are the image's, its parent's and so on", err)
	}
	if level > 0 {
		err = fmt.Errorf("%s: its parent %w", o.cfg.Image, err)
	}
	return nil, err
}

// unlockGiven tries the keys that were given for parents which need none of their own, so that a wrong one is told.
func (o *opener) unlockGiven(ctx context.Context, passphrases []*secret.Bytes) error {
	for level := 1; level < len(passphrases); level++ {
		vk, err := o.unlock(ctx, level, passphrases)
		if err != nil {
			return err
		}
		vk.Key.Release()
	}
	return nil
}

// wrongKey finds the level that a passphrase does not open, after librbd has only said that there is one.
func (o *opener) wrongKey(ctx context.Context, passphrases []*secret.Bytes, err error) error {
	if !errors.Is(err, syscall.EPERM) {
		return err
	}
	for level, l := range o.chain {
		if l.header == nil {
			break
		}
		if level > 0 {
			m, openErr := o.src.openParent(l.info)
			if openErr != nil {
				return errors.Join(err, openErr)
			}
			l.rbd, l.at = m, readerAt{m}
		}
		vk, unlockErr := o.unlock(ctx, level, passphrases)
		if unlockErr != nil {
			return unlockErr
		}
		vk.Key.Release()
	}
	return fmt.Errorf("%w: %w", luks.ErrWrongPassphrase, err)
}
