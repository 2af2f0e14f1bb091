// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/luksgate/luksgate/gateway/image"
	"github.com/luksgate/luksgate/gateway/image/rbd"
)

// checkCluster connects as the gateway would, and looks at what its user may do.
func checkCluster(ctx context.Context, opts Options) []Finding {
	const check = checkName("cluster")
	if opts.NoCeph {
		return []Finding{check.skipped("Ceph is left out.")}
	}
	if _, err := rbd.Features(); errors.Is(err, errors.ErrUnsupported) {
		return []Finding{check.skipped("This luksgate, built without Ceph, cannot ask it.")}
	}
	user := strings.TrimPrefix(opts.Ceph.User, "client.")
	if user == "" {
		user = "admin"
	}
	type result struct {
		c   *rbd.Cluster
		err error
	}
	done := make(chan result, 1)
	go func() {
		c, err := rbd.Connect(opts.Ceph)
		done <- result{c, err}
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		// librados cannot be told to stop: it ends by itself after client_mount_timeout, or with the process.
		return []Finding{check.bad("The cluster does not answer: %v.", context.Cause(ctx)).do(clusterAdvice, clusterTest(user))}
	}
	if r.err != nil {
		return []Finding{check.bad("%v.", r.err).do(clusterAdvice, clusterTest(user))}
	}
	defer r.c.Close()
	fsid, err := r.c.FSID()
	if err != nil {
		return []Finding{check.bad("%v.", err).do(clusterAdvice, clusterTest(user))}
	}
	all := []Finding{check.ok("Cluster %s answers client.%s.", fsid, user), checkCaps(r.c, user)}
	for _, ref := range opts.Images {
		all = append(all, checkImage(r.c, ref))
	}
	return all
}

const clusterAdvice = "Check mon_host and the keyring in ceph.conf, the user's name (--ceph-user) and the network. This command must work here."

func clusterTest(user string) string { return "rbd ls --id " + user + " POOL" }

// checkCaps asks what the user may do. Few users may ask that themselves: profile rbd alone does not allow it.
func checkCaps(c *rbd.Cluster, user string) Finding {
	const (
		check  = checkName("caps")
		wanted = "mon 'profile rbd' osd 'profile rbd pool=POOL'"
	)
	change := fmt.Sprintf("ceph auth caps client.%s %s", user, wanted)
	caps, err := c.Caps(user)
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		return check.skipped("client.%s may not see its own caps, which is right.", user).do(
			"Compare as an administrator. Wanted: "+wanted+".", "ceph auth get client."+user)
	}
	if err != nil {
		return check.warning("The caps of client.%s cannot be read: %v.", user, err).do("Set them as an administrator.", change)
	}
	found := fmt.Sprintf("client.%s has mon %q, osd %q", user, caps["mon"], caps["osd"])
	switch mon, osd := caps["mon"], caps["osd"]; {
	case mon == "":
		return check.bad("%s: it cannot even connect.", found).do("Set them as an administrator.", change)
	case !strings.Contains(mon, "profile rbd") && !strings.Contains(mon, "blocklist") &&
		!strings.Contains(mon, "blacklist") && !everything(mon):
		return check.warning("%s: it cannot break the lock of a host that died.", found).do(
			"Set them as an administrator: profile rbd has what that takes.", change)
	case !strings.Contains(osd, "profile rbd") && !everything(osd) && !strings.Contains(osd, "rwx"):
		return check.bad("%s: it cannot write images.", found).do("Set them as an administrator.", change)
	case everything(mon) || everything(osd):
		return check.warning("%s: that is more than a gateway needs.", found).do("Make a user for the gateway.",
			"ceph auth get-or-create client.luksgate "+wanted)
	}
	return check.ok("%s.", found)
}

func everything(caps string) bool {
	return slices.ContainsFunc(strings.Split(caps, ","), func(grant string) bool {
		grant = strings.TrimSpace(grant)
		return grant == "allow *" || grant == "allow all"
	})
}

// checkImage opens an image for reading.
func checkImage(c *rbd.Cluster, ref image.Ref) Finding {
	const check = checkName("image")
	if ref.Scheme != image.RBD {
		return check.skipped("%s is not in RBD.", ref)
	}
	info, err := c.Describe(ref)
	if err != nil {
		return check.bad("%v.", err).do("Check the name, and that the user's caps name the pool.")
	}
	found := fmt.Sprintf("%s can be read. Its features: %s.", ref, strings.Join(info.Features, ", "))
	if ref.Snapshot == "" && !slices.Contains(info.Features, "exclusive-lock") {
		return check.warning("%s", found).do("Give it exclusive-lock. Without it two hosts can write at once, and a migration cannot hand "+
			"the image over.", "rbd feature enable "+strings.TrimPrefix(ref.String(), "rbd:")+" exclusive-lock")
	}
	return check.ok("%s", found)
}
