// SPDX-License-Identifier: Apache-2.0

package nbdserver_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/nbdserver"
	"github.com/luksgate/luksgate/nbdserver/memdevice"
)

// nbdshPrelude connects without libnbd's own checks, so that the server sees what is wrong.
const nbdshPrelude = `
import errno
h = nbd.NBD()
h.set_strict_mode(0)
%s
h.connect_unix(%q)
def fails(want, f, *args, **kw):
    try:
        f(*args, **kw)
    except nbd.Error as e:
        assert e.errnum == want, (e.errnum, want)
    else:
        raise AssertionError("no error")
`

// nbdshScripts have one entry for each command, flag and error.
var nbdshScripts = []struct{ name, before, script string }{
	{"read and write", "", `
h.pwrite(b"x" * 5000, 100)
assert h.pread(5002, 99) == b"\0" + b"x" * 5000 + b"\0"`},
	{"write with FUA", "", `
h.pwrite(b"y" * 4096, 8192, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 8192) == b"y" * 4096`},
	{"32 MiB", "", `
buf = bytes(range(1, 255)) * (32 * 1024 * 1024 // 254)
h.pwrite(buf, 0)
assert h.pread(len(buf), 0) == buf`},
	{"structured read with DF", "", `
seen = []
h.pwrite(b"z" * 1048576, 1048576)
def chunk(data, offset, status, error):
    seen.append((offset, len(data), status))
assert h.pread_structured(3 * 1048576, 0, chunk, nbd.CMD_FLAG_DF) == b"\0" * 1048576 + b"z" * 1048576 + b"\0" * 1048576
assert len(seen) == 1, seen`},
	{"holes", "", `
states = set()
def chunk(data, offset, status, error):
    states.add(status)
h.pwrite(b"z" * 1048576, 1048576)
h.pread_structured(3 * 1048576, 0, chunk)
assert states == {nbd.READ_DATA, nbd.READ_HOLE}, states`},
	{"simple replies", "h.set_request_structured_replies(False)", `
assert not h.get_structured_replies_negotiated()
h.pwrite(b"a" * 300000, 5)
assert h.pread(300000, 5) == b"a" * 300000`},
	{"flush, trim, cache", "", `
h.flush()
h.pwrite(b"t" * 65536, 0)
h.trim(65536, 0)
assert h.pread(65536, 0) == b"\0" * 65536
h.trim(65536, 0, nbd.CMD_FLAG_FUA)
h.cache(65536, 0)`},
	{"write zeroes", "", `
for flags in (0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_FUA):
    h.pwrite(b"0" * 9999, 3)
    h.zero(9999, 3, flags)
    assert h.pread(9999, 3) == b"\0" * 9999`},
	{"block status", `h.add_meta_context("base:allocation")`, `
h.pwrite(b"d" * 4096, 65536)
got = []
def extent(context, offset, entries, error):
    assert context == "base:allocation"
    got.extend(entries)
h.block_status(1048576, 0, extent)
assert got[:4] == [65536, 3, 4096, 0], got
got.clear()
h.block_status(1000, 65536, extent, nbd.CMD_FLAG_REQ_ONE)
assert got == [1000, 0], got`},
	{"contexts are listed", "h.set_opt_mode(True)", `
names = []
h.opt_list_meta_context(lambda name: names.append(name))
assert names == ["base:allocation"], names
h.opt_go()`},
	{"errors", "", `
size = h.get_size()
fails(errno.EINVAL, h.pread, 2, size - 1)
fails(errno.ENOSPC, h.pwrite, b"ab", size - 1)
fails(errno.EINVAL, h.trim, 2, size - 1)
fails(errno.ENOSPC, h.zero, 2, size - 1)
fails(errno.EINVAL, h.cache, 2, size - 1)
fails(errno.EINVAL, h.pread, 33 * 1024 * 1024, 0)
fails(errno.EINVAL, h.pwrite, b"\1" * (33 * 1024 * 1024), 0)
fails(errno.EINVAL, h.block_status, 512, 0, lambda *a: None)
assert h.pread(4, 0) == b"\0\0\0\0"`},
	{"read-only", `h.set_export_name("ro")`, `
assert h.is_read_only()
fails(errno.EPERM, h.pwrite, b"x", 0)
fails(errno.EPERM, h.trim, 1, 0)
fails(errno.EPERM, h.zero, 1, 0)
assert h.pread(1, 0) == b"\0"`},
	{"many in flight", "", `
import os
bufs = [os.urandom(70000) for i in range(60)]
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b)), i * 70000) for i, b in enumerate(bufs)]
while h.aio_in_flight() > 0:
    h.poll(-1)
assert all(h.aio_command_completed(c) for c in cookies)
back = [nbd.Buffer(70000) for b in bufs]
cookies = [h.aio_pread(b, i * 70000) for i, b in enumerate(back)]
while h.aio_in_flight() > 0:
    h.poll(-1)
assert all(h.aio_command_completed(c) for c in cookies)
assert [bytes(b.to_bytearray()) for b in back] == bufs`},
}

func TestNbdsh(t *testing.T) {
	sh := testenv.Tool(t, "nbdsh")
	for _, x := range nbdshScripts {
		t.Run(strings.ReplaceAll(x.name, " ", "-"), func(t *testing.T) {
			bothKinds(t, 64<<20, func(t *testing.T, d *memdevice.Device) {
				ro := memdevice.New(1 << 20).With(func(p *nbdserver.Properties) { p.ReadOnly = true })
				socket := listen(t, nbdserver.Options{Catalog: &catalog{devices: map[string]nbdserver.Device{"": d, "ro": ro}}})
				script := fmt.Sprintf(nbdshPrelude, x.before, socket) + x.script + "\nh.shutdown()\n"
				cmd := exec.Command(sh, "-n", "-c", script)
				// The distribution's Python has libnbd's module; another one may come first in PATH.
				cmd.Env = append(os.Environ(), "PATH=/usr/bin:/bin:"+os.Getenv("PATH"))
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		})
	}
}
