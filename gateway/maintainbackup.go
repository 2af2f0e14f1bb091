// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// BackupHeader writes the header of an image, with its keyslots, to w: what "cryptsetup luksHeaderBackup" writes. It only
// reads the image, which others may use meanwhile; a header that changes under its hands is luks.ErrChanged.
func BackupHeader(cfg Config, w io.Writer) error {
	if cfg.Image.Scheme == image.Mem {
		return NewUsageError("%s is empty memory: there is no header", cfg.Image)
	}
	cfg.Engine, cfg.Lock, cfg.ReadOnly, cfg.Takeover = EngineNative, rbd.LockCooperative, true, false
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	src, err := openHeaderSource(cfg)
	if err != nil {
		return err
	}
	err = backup(cfg, readerAt{src.store}, w)
	if err != nil {
		err = fmt.Errorf("%s: %w", cfg.headerName(), err)
	}
	return errors.Join(err, src.close())
}

// openHeaderSource opens what the header is in.
func openHeaderSource(cfg Config) (*source, error) {
	if cfg.Header != "" {
		return openFile(cfg.Header, true)
	}
	return openSource(cfg)
}

func backup(cfg Config, at readerAt, w io.Writer) error {
	size, opts := at.store.SizeBytes(), luks.ReadOptions{Detached: cfg.Header != ""}
	before, err := luks.Read(at, size, opts)
	if before == nil {
		return err
	}
	var copied bytes.Buffer
	if err := before.Backup(at, &copied); err != nil {
		return err
	}
	after, err := luks.Read(at, size, opts)
	if after == nil {
		return err
	}
	kept, err := luks.Read(bytes.NewReader(copied.Bytes()), int64(copied.Len()), luks.ReadOptions{Detached: true})
	if kept == nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	info := kept.Info
	info.Detached, info.Unsupported = after.Detached, after.Unsupported
	if !reflect.DeepEqual(before.Info, after.Info) || !reflect.DeepEqual(info, after.Info) {
		return fmt.Errorf("%w while it was copied: try again", luks.ErrChanged)
	}
	_, err = w.Write(copied.Bytes())
	return err
}
