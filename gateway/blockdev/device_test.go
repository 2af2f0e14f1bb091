// SPDX-License-Identifier: Apache-2.0

//go:build linux && (cgo || amd64)

package blockdev

import (
	"strings"
	"testing"

	"github.com/luksgate/luksgate/nbdserver/client"
)

func TestBlockBytes(t *testing.T) {
	for _, test := range []struct {
		e     client.Export
		asked int
		want  int
		text  string
	}{
		{client.Export{SizeBytes: 1 << 20}, 0, 512, ""},
		{client.Export{SizeBytes: 1 << 20}, 4096, 4096, ""},
		{client.Export{SizeBytes: 1<<20 + 512}, 4096, 0, "no multiple"},
		{client.Export{SizeBytes: 1000}, 0, 0, "no multiple"},
		{client.Export{SizeBytes: 1 << 20, MinBlockBytes: 4096}, 0, 0, "no request below 4096"},
		{client.Export{SizeBytes: 1 << 20}, 1024 + 512, 0, "power of two"},
		{client.Export{SizeBytes: 1 << 20}, 8192, 0, "512 to 4096"},
		{client.Export{SizeBytes: 1 << 20}, -512, 0, "512 to 4096"},
	} {
		got, err := blockBytes(test.e, test.asked)
		if got != test.want || (test.text == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.text) {
			t.Errorf("%+v, %d: %d, %v", test.e, test.asked, got, err)
		}
	}
}
