# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: Apache-2.0
#
# The demo without Ceph.  Judges: cryptsetup, which makes and unmakes the ciphertext without root and device-mapper, and
# qemu-img, which compares.

luksgate=bin/luksgate-noceph

demo() {
  step "Install what is needed and build luksgate without Ceph"
  install_and_build build-noceph go test
  run "$luksgate" version

  step "Make a LUKS2 image with cryptsetup: 64 MiB of random bytes, encrypted in place"
  head -c 64M /dev/urandom >"$dir/reference.raw"
  head -c 8M /dev/urandom >"$dir/random"
  printf 'correct horse battery staple' >"$dir/passphrase"
  cp "$dir/reference.raw" "$dir/disk.luks"
  truncate -s +32M "$dir/disk.luks"
  # shellcheck disable=SC2016
  note '$D/reference.raw is the plaintext; $D/disk.luks is a copy of it, with room for the header'
  run cryptsetup reencrypt --encrypt --type luks2 --reduce-device-size 32M --resilience none --sector-size 4096 \
    --batch-mode --key-file "$dir/passphrase" "$dir/disk.luks"
  truncate -s 80M "$dir/disk.luks"
  run "$luksgate" inspect "file:$dir/disk.luks"

  step "Serve it, and compare all of it with the plaintext"
  export_image "file:$dir/disk.luks" disk
  run nbdinfo --size "$uri"
  run qemu-img compare -f raw -F raw "$uri" "$dir/reference.raw"
  good "what cryptsetup encrypted, luksgate decrypts: 64 MiB are the same"

  step "Write through the gateway, and the same to the plaintext"
  scribble -f raw "$uri"
  scribble -f raw "$dir/reference.raw"
  run qemu-img compare -f raw -F raw "$uri" "$dir/reference.raw"
  close_export
  export_image "file:$dir/disk.luks" disk
  run qemu-img compare -f raw -F raw "$uri" "$dir/reference.raw"
  good "what was written through luksgate is there again after it was closed and opened"
  close_export

  step "Let cryptsetup decrypt what luksgate wrote"
  cp "$dir/disk.luks" "$dir/decrypted.raw"
  run cryptsetup reencrypt --decrypt --force-offline-reencrypt --batch-mode --key-file "$dir/passphrase" \
    --header "$dir/header" "$dir/decrypted.raw"
  truncate -s 64M "$dir/decrypted.raw"
  run cmp "$dir/decrypted.raw" "$dir/reference.raw"
  good "what luksgate encrypted, cryptsetup decrypts: 64 MiB are the same"

  step "The disk element for libvirt"
  check_disk_xml disk

  step "What it refuses"
  printf 'wrong' >"$dir/wrong"
  refused 3 "$luksgate" export "file:$dir/disk.luks" --socket "$dir/x.sock" --key-file "$dir/wrong"
  refused 4 "$luksgate" export "file:$dir/reference.raw" --socket "$dir/x.sock" --key-file "$dir/passphrase"
  good "a wrong passphrase and an image without LUKS are refused, each with its own exit code"
}
