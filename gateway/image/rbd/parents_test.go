// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/image"
)

// parentOf describes the parent of a clone.
func parentOf(t *testing.T, c *Cluster, clone string) *Info {
	t.Helper()
	info, err := c.Describe(ref(t, clone))
	if err != nil {
		t.Fatal(err)
	}
	if info.Parent == nil {
		t.Fatalf("%s has no parent", clone)
	}
	return info.Parent
}

// shareParent is ShareParent, which has to succeed. What is not released then is released in the end.
func shareParent(t *testing.T, cfg Config, info *Info) (m *Image, release func()) {
	t.Helper()
	m, give, err := ShareParent(cfg, info, nil)
	if err != nil {
		t.Fatal(err)
	}
	release = func() {
		t.Helper()
		if err := give(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(release)
	return m, release
}

// TestParentsAreShared has clones of one snapshot share it, as long as one of them has it, and where all would open the same.
func TestParentsAreShared(t *testing.T) {
	c := connect(t)
	clone := filled(t, c, 1)
	info := parentOf(t, c, clone)
	cfg := Config{ConfFile: testenv.CephConf(t)}
	first, releaseFirst := shareParent(t, cfg, info)
	second, releaseSecond := shareParent(t, cfg, parentOf(t, c, clone))
	if first != second {
		t.Error("two users of one snapshot have two images")
	}
	other, _ := shareParent(t, Config{ConfFile: cfg.ConfFile, Options: map[string]string{"rados_osd_op_timeout": "77"}}, info)
	if other == first {
		t.Error("users with different settings share an image")
	}
	another, _ := shareParent(t, cfg, parentOf(t, c, filled(t, c, 1)))
	if another == first {
		t.Error("two snapshots are one image")
	}
	if another.cluster != first.cluster {
		t.Error("two parents have two connections")
	}
	releaseFirst()
	releaseFirst() // of no effect
	got := make([]byte, 4)
	if err := second.ReadAt([][]byte{got}, 64<<10); err != nil || !bytes.Equal(got, []byte("data")) {
		t.Errorf("after the other user went: %q, %v", got, err)
	}
	releaseSecond()
	if left := slices.Collect(maps.Keys(parents.byName)); len(left) != 2 {
		t.Errorf("it is kept though nobody has it: %q", left)
	}
	if again, _ := shareParent(t, cfg, info); again == first {
		t.Error("an image is given out that was closed")
	}
}

// TestParentsApartFromImages has no parent on a connection that may hold a lock: who takes an image over has the cluster
// block all of its client's connection, which would be the end of all other clones.
func TestParentsApartFromImages(t *testing.T) {
	c := connect(t)
	cfg := Config{ConfFile: testenv.CephConf(t)}
	parent, _ := shareParent(t, cfg, parentOf(t, c, filled(t, c, 1)))
	ordinary, release, err := Acquire(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if ordinary == parent.cluster {
		t.Error("an image has the connection of a parent")
	}
}

// TestParentThatCannotBeOpened is told to everybody, and is tried again for the next one.
func TestParentThatCannotBeOpened(t *testing.T) {
	c := connect(t)
	info := *parentOf(t, c, filled(t, c, 1))
	cfg := Config{ConfFile: filepath.Join(t.TempDir(), "ceph.conf")}
	if _, _, err := ShareParent(cfg, &info, nil); !errors.Is(err, image.ErrUnreachable) {
		t.Errorf("without a configuration: %v", err)
	}
	conf, err := os.ReadFile(testenv.CephConf(t))
	if err != nil {
		t.Fatal(err)
	}
	testenv.WriteFile(t, cfg.ConfFile, conf)
	shareParent(t, cfg, &info)
	cfg.ConfFile = testenv.CephConf(t)
	for _, wrong := range []Info{
		{Name: info.Name, ID: info.ID, SnapshotID: info.SnapshotID + 1000},
		{Name: info.Name, ID: "none", SnapshotID: info.SnapshotID},
	} {
		if _, _, err := ShareParent(cfg, &wrong, nil); !errors.Is(err, image.ErrUnreachable) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	if _, _, err := ShareParent(cfg, &Info{Name: info.Name, ID: info.ID}, nil); err == nil {
		t.Error("an image that may change is shared")
	}
}

// TestBlockedParentIsNotShared gives nobody new an image that the cluster does not serve any more, nor its connection.
func TestBlockedParentIsNotShared(t *testing.T) {
	c := connect(t)
	info := parentOf(t, c, filled(t, c, 1))
	cfg := Config{ConfFile: testenv.CephConf(t)}
	first, _ := shareParent(t, cfg, info)
	address, err := first.cluster.conn.GetAddrs()
	if err != nil {
		t.Fatal(err)
	}
	testenv.Ceph(t, "osd", "blocklist", "add", address)
	t.Cleanup(func() { testenv.Ceph(t, "osd", "blocklist", "rm", address) })
	buf := make([]byte, 4)
	for err = nil; err == nil; { // the news take a moment
		err = first.ReadAt([][]byte{buf}, 0)
	}
	if !errors.Is(err, ErrBlocked) || !errors.Is(first.Err(), ErrBlocked) {
		t.Fatalf("%v, %v", err, first.Err())
	}
	second, _ := shareParent(t, cfg, info)
	if second == first || second.cluster == first.cluster {
		t.Error("the blocked one is given out")
	}
	if err := second.ReadAt([][]byte{buf}, 0); err != nil {
		t.Error(err)
	}
}

// TestParentInTheTrash describes and opens a parent whose snapshot, and then whose image, was removed while it had a clone.
func TestParentInTheTrash(t *testing.T) {
	c := connect(t)
	clone := filled(t, c, 1)
	parent := ref(t, parentOf(t, c, clone).Name[len("rbd:"):])
	for _, args := range [][]string{
		{"snap", "rm", "--no-progress", parent.Pool + "/" + parent.Image + "@s"},
		{"trash", "mv", parent.Pool + "/" + parent.Image},
	} {
		testenv.RBD(t, args...)
		m, err := c.OpenDescribed(parentOf(t, c, clone), nil)
		if err != nil {
			t.Fatalf("after %v: %v", args[0], err)
		}
		objects, err := m.Objects()
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4)
		if exists, err := objects.Read(1, [][]byte{got}, 0); !exists || err != nil || !bytes.Equal(got, []byte("data")) {
			t.Errorf("after %v: %q, %v, %v", args[0], got, exists, err)
		}
		if err := errors.Join(objects.Close(), m.Close()); err != nil {
			t.Error(err)
		}
	}
	testenv.RBD(t, "trash", "restore", parentOf(t, c, clone).ID, "--image", parent.Image) // for those who clean up
}
