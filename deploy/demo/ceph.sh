# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
#
# The demo on Ceph.  Judge: librbd's own encryption engine, used by qemu-io and qemu-img.

luksgate=bin/luksgate

# librbd IMAGE   qemu's options for an image through librbd's engine
librbd() { echo "driver=rbd,pool=rbd,image=$1,conf=$cluster/ceph.conf,encrypt.format=luks2,encrypt.key-secret=s0"; }

# same NAME IMAGE   the export and librbd's engine give the same bytes from beginning to end
same() {
  run qemu-img compare --object "secret,id=s0,file=$dir/passphrase" --image-opts "driver=nbd,path=$dir/$1.sock,export=$1" "$(librbd "$2")"
}

demo() {
  step "Install what is needed and build luksgate"
  install_and_build build go build test ceph
  run "$luksgate" version

  step "Start a one-node Ceph cluster of our own"
  cluster=$dir/ceph
  run deploy/devcluster/devcluster start "$cluster"
  export CEPH_CONF=$cluster/ceph.conf
  printf 'correct horse battery staple' >"$dir/passphrase"
  head -c 32M /dev/urandom >"$dir/pattern"

  step "Make an image, have rbd encrypt it, and write to it through librbd's engine"
  run rbd create --size 144M rbd/disk
  run rbd encryption format rbd/disk luks2 "$dir/passphrase"
  # The last 32 MiB stay unwritten.  Elsewhere there are no holes: what librbd's engine reads in the holes of an object that
  # exists depends on the size of the read, so it could not judge there.
  run qemu-io --object "secret,id=s0,file=$dir/passphrase" --image-opts "$(librbd disk)" \
    -c "write -q -s $dir/pattern 0 32M" -c "write -q -s $dir/pattern 32M 32M" -c "write -q -s $dir/pattern 64M 32M" \
    -c 'write -q -P 0xa5 16M 4M' -c flush
  run "$luksgate" inspect rbd:rbd/disk

  step "Serve it, and compare all of it with what librbd's engine reads"
  export_image rbd:rbd/disk disk
  run nbdinfo --size "$uri"
  same disk disk
  good "what librbd encrypted, luksgate decrypts: the whole image is the same"

  step "Write through the gateway, close it, and read the same bytes through librbd"
  head -c 8M /dev/urandom >"$dir/random"
  qemu-img convert -f raw -O raw "$uri" "$dir/reference.raw"
  scribble -f raw "$uri"
  scribble -f raw "$dir/reference.raw"
  close_export
  run qemu-img compare --object "secret,id=s0,file=$dir/passphrase" --image-opts "$(librbd disk)" "driver=raw,file.filename=$dir/reference.raw"
  good "what luksgate encrypted, librbd decrypts: the whole image is the same"

  step "A snapshot and a clone of it, which inherits the key"
  run rbd snap create --no-progress rbd/disk@before
  run rbd snap protect rbd/disk@before
  run rbd clone rbd/disk@before rbd/clone
  export_image rbd:rbd/clone clone
  run qemu-img compare -f raw -F raw "$uri" "$dir/reference.raw"
  run qemu-io -f raw "$uri" -c 'write -q -P 0x99 17M 1M' -c 'write -q -P 0x98 512 512' -c flush
  qemu-io -f raw "$dir/reference.raw" -c 'write -q -P 0x99 17M 1M' -c 'write -q -P 0x98 512 512'
  close_export
  run qemu-img compare --object "secret,id=s0,file=$dir/passphrase" --image-opts "$(librbd clone)" "driver=raw,file.filename=$dir/reference.raw"
  good "the clone reads like its parent, takes writes of its own, and librbd agrees"
  run "$luksgate" inspect rbd:rbd/clone
  export_image rbd:rbd/disk@before snapshot --read-only
  run qemu-io -r -f raw "$uri" -c 'read -q -P 0xa5 16M 4M'
  good "the snapshot still has what it had"
  close_export

  step "The disk element for libvirt"
  check_disk_xml disk

  step "What it refuses"
  printf 'wrong' >"$dir/wrong"
  refused 3 "$luksgate" export rbd:rbd/disk --socket "$dir/x.sock" --key-file "$dir/wrong"
  run rbd create --size 16M rbd/plain
  refused 4 "$luksgate" export rbd:rbd/plain --socket "$dir/x.sock" --key-file "$dir/passphrase"
  refused 5 "$luksgate" export rbd:rbd/nothing --socket "$dir/x.sock" --key-file "$dir/passphrase"
  good "a wrong passphrase, an image without LUKS and one that is not there are refused, each with its own exit code"
}
