// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
)

// sayStep is the successor's side of the conversation for a shell: a message is its length in 8 bytes, and JSON.
const sayStep = `#!/bin/sh
say() { printf "\\0\\0\\0\\0\\0\\0\\0\\$(printf %03o ${#1})%s" "$1" >&3; }
step() { say "{\"step\":\"$1\"}"; }
ready() { step ready; dd bs=64k count=1 <&3 >/dev/null 2>&1; }
fail() { say "{\"step\":\"$1\",\"error\":\"$2\"}"; }
`

// TestUpgradeFailsAtEachStage installs programs that get ever further with taking over: each time the old process goes on
// with all of its clients, which notice nothing, and after all of them a good program takes over.
func TestUpgradeFailsAtEachStage(t *testing.T) {
	f := newUpgradeFixture(t)
	install := func(script string) {
		t.Helper()
		if err := os.Remove(f.program); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.program, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, script, want string }{
		{"no program", "", "exec format error"},
		{"ends at once", sayStep + "exit 1", `"ready"`},
		{"speaks something else", sayStep + `printf 'HTTP/1.1 400 Bad Request' >&3`, "message of"},
		{"another step", sayStep + "step opened", `it said "opened": expected "ready"`},
		{"ends when it is ready", sayStep + "ready", `"opened"`},
		{"cannot open an image", sayStep + "ready; fail opened 'no key'", "no key"},
		{"ends after one image", sayStep + "ready; step opened", `"opened"`},
		{"ends before the pause", sayStep + "ready; step opened; step opened", `"prepared"`},
		{"ends in the pause", sayStep + "ready; step opened; step opened; step prepared", ""},
		{"ends with all sockets", sayStep + "ready; step opened; step opened; step prepared; dd bs=1M count=2 <&3 >/dev/null 2>&1", ""},
		{"has no locks", sayStep + "ready; step opened; step opened; step prepared; fail open 'a lock is gone'; sleep 0.2", "a lock is gone"},
		{"hangs in the pause", sayStep + "ready; step opened; step opened; step prepared; exec sleep 60", "in time"},
	} {
		install(c.script)
		if r := f.run("upgrade"); r.ExitCode == 0 || !strings.Contains(r.Stderr, c.want) {
			t.Errorf("%s: expected %q\n%s", c.name, c.want, r)
		}
		v, err := f.client.Version(context.Background())
		if err != nil || v.PID != f.PID() {
			t.Errorf("%s: %+v, %v", c.name, v, err)
		}
		if a, b := f.export("a").Clients, f.export("b").Clients; a+b != 6 {
			t.Fatalf("%s: of six clients there are %d and %d\n%s", c.name, a, b, f.Output())
		}
		dial(t, f.socket("a.sock")).c.Close() // new ones come in
		f.wait("it has left", func() bool { return f.export("a").Clients == 3 })
	}
	if err := os.Remove(f.program); err != nil {
		t.Fatal(err)
	}
	if r := f.run("upgrade"); r.ExitCode == 0 || !strings.Contains(r.Stderr, "no such file") {
		t.Errorf("nothing is installed: %s", r)
	}
	if err := os.Symlink(os.Args[0], f.program); err != nil {
		t.Fatal(err)
	}
	u, err := f.client.Upgrade(context.Background(), false)
	if err != nil || u.Connections != 6 {
		t.Fatalf("the good one: %+v, %v\n%s", u, err, f.Output())
	}
	t.Cleanup(func() { _ = syscall.Kill(u.PID, syscall.SIGKILL) }) // no child of ours
	f.finish()
	_ = syscall.Kill(u.PID, syscall.SIGTERM)
	f.wait("it ends and takes its sockets along", func() bool {
		_, err := os.Stat(f.socket("a.sock"))
		return os.IsNotExist(err)
	})
}

// programOf is a name for this program that can become another's.
func programOf(t *testing.T) string {
	t.Helper()
	name := testenv.SocketDir(t) + "/luksgate"
	if err := os.Symlink(os.Args[0], name); err != nil {
		t.Fatal(err)
	}
	return name
}
