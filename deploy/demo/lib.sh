# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# What both demos use: printing steps, running commands in the open, the gateway as a child, clean-up.

bold='' dim='' green='' red='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi

dir=         # the demo's folder
cluster=     # the folder of the Ceph cluster, once it is started
gateway_pid= # the running luksgate
step_number=0
shown=() # what the summary will say

step() { step_number=$((step_number + 1)); printf '\n%s%d. %s%s\n' "$bold" "$step_number" "$*" "$plain"; }
note() { printf '   %s\n' "$*"; }
good() { printf '   %s✓ %s%s\n' "$green" "$*" "$plain"; shown+=("$*"); }
bad() { printf '   %s✗ %s%s\n' "$red" "$*" "$plain" >&2; exit 1; }

# brief WORD...   the words as one would type them, with the demo's folder written as $D
brief() {
  local word text=
  for word in "$@"; do
    case $word in *[[:space:]]*) [ $# = 1 ] || word="'$word'" ;; esac
    text+="$word "
  done
  text=${text% }
  printf '%s' "${text//"${dir:-//}"/\$D}"
}

# run COMMAND...   show a command, run it, indent what it says; its failure ends the demo
run() {
  local code=0
  printf '   %s$ %s%s\n' "$dim" "$(brief "$@")" "$plain"
  "$@" 2>&1 </dev/null | sed -u 's/^/     /' || code=$?
  [ "$code" = 0 ] || bad "that command failed (exit code $code)"
}

# refused CODE COMMAND...   a command that must end with this exit code
refused() {
  local want=$1 code=0
  shift
  printf '   %s$ %s%s\n' "$dim" "$(brief "$@")" "$plain"
  "$@" 2>&1 </dev/null | sed -u 's/^/     /' || code=$?
  [ "$code" = "$want" ] || bad "expected exit code $want, got $code"
}

begin() {
  dir=$(mktemp -d /tmp/luksgate-demo.XXXXXX)
  trap finish EXIT
  trap 'echo; note "interrupted: cleaning up"; exit 130' INT
  trap 'exit 143' TERM HUP
  printf '%sluksgate demo (%s)%s   %s is %s\n' "$bold" "${mode:?}" "$plain" "\$D" "$dir"
}

finish() {
  local code=$?
  trap '' INT TERM HUP
  if [ -n "$gateway_pid" ]; then
    kill -TERM "$gateway_pid" 2>/dev/null || true
    wait "$gateway_pid" 2>/dev/null || true
  fi
  if [ -n "$cluster" ]; then
    deploy/devcluster/devcluster stop "$cluster" --wipe >/dev/null 2>&1 || echo "demo: cannot stop the cluster in $cluster" >&2
  fi
  [ -z "$dir" ] || rm -rf "$dir"
  [ "$code" = 0 ] || printf '%sdemo: ended early; what it started is stopped, and its folder is removed%s\n' "$red" "$plain" >&2
  exit "$code"
}

end() {
  local line
  printf '\n%sShown in %d s:%s\n' "$bold" "$SECONDS" "$plain"
  for line in "${shown[@]}"; do printf '   %s✓%s %s\n' "$green" "$plain" "$line"; done
  printf 'Everything that was started is stopped again.\n'
}

install_and_build() { # MAKE-TARGET GROUP...
  local target=$1
  shift
  if [ -z "${SKIP_INSTALL:-}" ]; then
    note "(apt-get is asked only for what is missing)"
    run deploy/install-deps "$@"
  fi
  run make "$target"
}

# export_image IMAGE NAME [OPTION ...]   start luksgate for an image; sets $uri when it says that it is ready
export_image() {
  local image=$1 name=$2 line tries
  shift 2
  local command=("$luksgate" export "$image" --socket "$dir/$name.sock" --name "$name" --key-file "$dir/passphrase" "$@")
  printf '   %s$ %s &%s\n' "$dim" "$(brief "${command[@]}")" "$plain"
  : >"$dir/$name.out"
  "${command[@]}" >"$dir/$name.out" 2>"$dir/$name.err" </dev/null &
  gateway_pid=$!
  uri=
  for ((tries = 0; tries < 1200; tries++)); do
    uri=$(grep -m 1 '^nbd' "$dir/$name.out" || true)
    [ -z "$uri" ] || break
    kill -0 "$gateway_pid" 2>/dev/null || break
    sleep .05
  done
  while read -r line; do note "  $(brief "$line")"; done <"$dir/$name.err"
  [ -n "$uri" ] || { gateway_pid=; bad "luksgate did not get ready"; }
  note "  $(brief "$uri")"
}

# close_export   stop luksgate as an operator would; it must finish what it has in hand and exit 0
close_export() {
  local code=0
  printf '   %s$ kill -TERM %s; wait%s\n' "$dim" "$gateway_pid" "$plain"
  kill -TERM "$gateway_pid"
  wait "$gateway_pid" || code=$?
  gateway_pid=
  [ "$code" = 0 ] || bad "luksgate ended with exit code $code"
}

# check_disk_xml NAME   print the disk element and, where libvirt's schema is installed, validate a domain with it
check_disk_xml() {
  local schema=/usr/share/libvirt/schemas/domain.rng
  local command=("$luksgate" xml disk --socket "$dir/$1.sock" --name "$1" --target vda)
  run "${command[@]}"
  {
    echo "<domain type='qemu'><name>demo</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os><devices>"
    "${command[@]}"
    echo "</devices></domain>"
  } >"$dir/domain.xml"
  if [ -e "$schema" ] && command -v xmllint >/dev/null; then
    run xmllint --noout --relaxng "$schema" "$dir/domain.xml"
    good "libvirt's own schema accepts the disk element that luksgate prints"
  else
    note "libvirt's schema is not installed here: the element is printed but not validated"
  fi
}

# scribble IMAGE-OPTIONS...   the writes of the demo, done by qemu-io: long, short, unaligned, and across sector borders
scribble() {
  run qemu-io "$@" -c "write -q -s $dir/random 3M 8M" -c 'write -q -P 0x77 40M 2M' -c 'write -q -P 0x31 50331137 513' \
    -c 'write -q -P 0x42 45M 4k' -c 'flush'
}
