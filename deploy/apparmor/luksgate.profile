# SPDX-License-Identifier: Apache-2.0
#
# What luksgate's daemon may do, /etc/apparmor.d/luksgate.  The units apply it (AppArmorProfile=); `luksgate` started by hand
# is not confined, for it opens whatever files its user names.
#
# Image files (file:), key files elsewhere and programs of key.command need rules in /etc/apparmor.d/local/luksgate, such as
#   /srv/images/*.luks rwk,
#   /usr/local/bin/get-key Ux,

#include <tunables/global>

profile luksgate flags=(attach_disconnected) {
  #include <abstractions/base>
  #include <abstractions/nameservice>
  #include <abstractions/openssl>
  #include <abstractions/ssl_certs>

  # NBD, Ceph, Vault, OpenStack, metrics
  network inet stream,
  network inet6 stream,
  network inet dgram,
  network inet6 dgram,
  network netlink raw,

  # itself, also when it hands over to a newer one; the libraries of luksgate-bundle
  /usr/bin/luksgate mrix,
  /usr/lib/luksgate/ r,
  /usr/lib/luksgate/** mr,
  signal (send, receive) peer=luksgate,
  # for exports that only one guest may open: whose process a client is
  ptrace (read),
  @{PROC}/[0-9]*/{attr/current,attr/apparmor/current,status,cgroup,stat} r,

  # what it is told, and nothing else of what is secret
  /etc/luksgate/ r,
  /etc/luksgate/** r,
  /etc/ceph/ r,
  /etc/ceph/** r,
  /run/credentials/luksgate*.service/ r,
  /run/credentials/luksgate*.service/** r,

  # sockets: its own, libvirt's for secrets, systemd's
  /run/luksgate/ rw,
  /run/luksgate/** rwk,
  /run/libvirt/{libvirt-sock,libvirt-sock-ro,virtsecretd-sock} rw,
  /run/systemd/notify w,

  # what Go and Ceph look at
  /usr/lib/ssl/openssl.cnf r,
  /sys/kernel/mm/transparent_hugepage/hpage_pmd_size r,
  /sys/fs/cgroup/** r,
  /sys/devices/system/{cpu,node}/** r,
  /sys/devices/virtual/dmi/id/* r,
  /sys/class/block/ r,
  @{PROC}/{cpuinfo,meminfo,version,mounts,sys/kernel/osrelease} r,
  @{PROC}/sys/net/core/somaxconn r,
  @{PROC}/sys/vm/overcommit_memory r,
  @{PROC}/sys/crypto/fips_enabled r,
  owner @{PROC}/@{pid}/{cgroup,mountinfo,mounts,maps,stat,status,limits,cmdline} r,
  owner @{PROC}/@{pid}/task/[0-9]*/comm rw,
  owner @{PROC}/@{pid}/fd/ r,
  owner /run/ceph/** rw,
  owner /var/log/ceph/*luksgate* rw,

  #include if exists <local/luksgate>
}
