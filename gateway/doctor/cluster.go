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
	if opts.NoCeph {
		return []Finding{{"cluster", Skipped, "Ceph is left out", ""}}
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
		return []Finding{{"cluster", Error, "the cluster does not answer: " + context.Cause(ctx).Error(), clusterAdvice}}
	}
	if r.err != nil {
		return []Finding{{"cluster", Error, r.err.Error(), clusterAdvice}}
	}
	defer r.c.Close()
	fsid, err := r.c.FSID()
	if err != nil {
		return []Finding{{"cluster", Error, err.Error(), clusterAdvice}}
	}
	all := []Finding{{"cluster", OK, fmt.Sprintf("cluster %s answers client.%s", fsid, user), ""}, checkCaps(r.c, user)}
	for _, ref := range opts.Images {
		all = append(all, checkImage(r.c, ref))
	}
	return all
}

const clusterAdvice = "check mon_host and the keyring in ceph.conf, the user's name (--ceph-user) and the network; " +
	"ceph -s --id USER must work on this host"

// checkCaps asks what the user may do. Few users may ask that themselves: profile rbd alone does not allow it.
func checkCaps(c *rbd.Cluster, user string) Finding {
	const check = "caps"
	advice := fmt.Sprintf("as an administrator: ceph auth caps client.%s mon 'profile rbd' osd 'profile rbd pool=POOL'", user)
	ownUser := "make a user for the gateway: ceph auth get-or-create client.luksgate mon 'profile rbd' osd 'profile rbd pool=POOL'"
	caps, err := c.Caps(user)
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		return Finding{check, Skipped, fmt.Sprintf("client.%s may not see its own caps, which is right", user),
			fmt.Sprintf("as an administrator compare: ceph auth get client.%s wants mon 'profile rbd' and osd 'profile rbd pool=POOL'", user)}
	}
	if err != nil {
		return Finding{check, Warning, fmt.Sprintf("the caps of client.%s cannot be read: %v", user, err), advice}
	}
	found := fmt.Sprintf("client.%s has mon %q, osd %q", user, caps["mon"], caps["osd"])
	switch mon, osd := caps["mon"], caps["osd"]; {
	case mon == "":
		return Finding{check, Error, found + ": it cannot even connect", advice}
	case !strings.Contains(mon, "profile rbd") && !strings.Contains(mon, "blocklist") &&
		!strings.Contains(mon, "blacklist") && !everything(mon):
		return Finding{check, Warning, found + ": it cannot break the lock of a host that died (that takes profile rbd)", advice}
	case !strings.Contains(osd, "profile rbd") && !everything(osd) && !strings.Contains(osd, "rwx"):
		return Finding{check, Error, found + ": it cannot write images", advice}
	case everything(mon) || everything(osd):
		return Finding{check, Warning, found + ": that is more than a gateway needs", ownUser}
	}
	return Finding{check, OK, found, ""}
}

func everything(caps string) bool {
	return slices.ContainsFunc(strings.Split(caps, ","), func(grant string) bool {
		grant = strings.TrimSpace(grant)
		return grant == "allow *" || grant == "allow all"
	})
}

// checkImage opens an image for reading.
func checkImage(c *rbd.Cluster, ref image.Ref) Finding {
	const check = "image"
	if ref.Scheme != image.RBD {
		return Finding{check, Skipped, ref.String() + " is not in RBD", ""}
	}
	info, err := c.Describe(ref)
	if err != nil {
		return Finding{check, Error, err.Error(), "check the name, and that the user's caps name the pool"}
	}
	found := fmt.Sprintf("%s can be read; features: %s", ref, strings.Join(info.Features, ", "))
	if ref.Snapshot == "" && !slices.Contains(info.Features, "exclusive-lock") {
		return Finding{check, Warning, found, fmt.Sprintf("rbd feature enable %s exclusive-lock: without it two hosts can write at once, "+
			"and a migration cannot hand the image over", strings.TrimPrefix(ref.String(), "rbd:"))}
	}
	return Finding{check, OK, found, ""}
}
