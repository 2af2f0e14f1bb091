// SPDX-License-Identifier: Apache-2.0

package luks_test

import (
	"context"
	"fmt"
	"os"

	"github.com/luksgate/luksgate/crypt/luks"
	"github.com/luksgate/luksgate/crypt/secret"
	"github.com/luksgate/luksgate/crypt/xts"
)

// Example formats an image, opens it, changes its passphrase and writes a sector. A real caller leaves out the KDF options,
// gets the passphrase by secret.ReadAll, and has an image where memory stands.
func Example() {
	ctx := context.Background()
	image := &memory{data: make([]byte, 4<<20)}
	passphrase := exampleSecret("correct horse")
	defer passphrase.Release()

	_, made, err := luks.Format(ctx, image, image.size(), luks.FormatOptions{
		DataOffsetBytes: 1 << 20, Label: "example", Passphrase: passphrase,
		KDF: luks.KDFOptions{TimeCost: 4, MemoryKiB: 64, Threads: 1},
	})
	if err != nil {
		exit(err)
	}
	made.Release()

	header, err := luks.Read(image, image.size(), luks.ReadOptions{})
	if err != nil {
		exit(err)
	}
	fmt.Println(header.Label, header.Cipher, header.Mode, header.SectorBytes, header.DataOffsetBytes)

	key, err := header.Unlock(ctx, image, passphrase, luks.UnlockOptions{})
	if err != nil {
		exit(err)
	}
	defer key.Release()
	better := exampleSecret("correct horse battery staple")
	defer better.Release()
	slot, header, err := header.ChangeKey(ctx, image, key, better, luks.KeyslotOptions{KDF: luks.KDFOptions{Type: "pbkdf2", Iterations: 1000}})
	if err != nil {
		exit(err)
	}
	fmt.Println("keyslot", slot, header.Keyslots[0].KDF.Type)

	cipher, err := xts.New(key.Key.Bytes(), header.SectorBytes)
	if err != nil {
		exit(err)
	}
	defer cipher.Release()
	sector := make([]byte, header.SectorBytes)
	cipher.Encrypt(sector, sector, header.IVOffset) // the first sector of the data
	_, err = image.WriteAt(sector, header.DataOffsetBytes)
	fmt.Println(err)
	// Output:
	// example aes xts-plain64 4096 1048576
	// keyslot 0 pbkdf2
	// <nil>
}

func exit(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func exampleSecret(text string) *secret.Bytes {
	s, err := secret.Copy([]byte(text))
	if err != nil {
		exit(err)
	}
	return s
}
