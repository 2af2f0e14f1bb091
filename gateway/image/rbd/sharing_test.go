// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import "testing"

// TestHundredsShareMore opens many images one after the other: 4 on each of the first 16 connections, then up to 16, evenly.
func TestHundredsShareMore(t *testing.T) {
	var s sharing[int]
	opened := 0
	var all []*share[int]
	check := func(images, connections, most int) {
		t.Helper()
		for len(all) < images {
			e, err := s.get("cluster", imagesPerConnection, func(int) bool { return true }, func() (int, error) { opened++; return opened, nil })
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
		got := 0
		for _, e := range s.byName["cluster"] {
			got = max(got, e.users)
		}
		if opened != connections || got != most {
			t.Errorf("%d images have %d connections with up to %d, want %d with up to %d", images, opened, got, connections, most)
		}
	}
	check(4, 1, 4)
	check(5, 2, 4)
	check(64, 16, 4)
	check(80, 16, 5)
	check(256, 16, 16)
	check(500, 32, 16)
	for _, e := range all {
		if s.put(e) {
			opened--
		}
	}
	if opened != 0 || len(s.byName) != 0 {
		t.Errorf("%d connections are left after the last image", opened)
	}
}
