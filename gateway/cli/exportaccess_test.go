// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/luksgate/luksgate/deploy/testenv"
	"github.com/luksgate/luksgate/gateway/daemon/api"
)

// as runs a tool as somebody else, which only root can.
func as(t *testing.T, uid, gid, groups string, tool ...string) testenv.Result {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: being somebody else takes root")
	}
	if groups = "--groups=" + groups; groups == "--groups=" {
		groups = "--clear-groups"
	}
	return testenv.Try(t, "setpriv", append([]string{"--reuid=" + uid, "--regid=" + gid, groups}, tool...)...)
}

// publicDir is a folder for sockets that everybody can reach.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := testenv.SocketDir(t)
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// clientDir is a folder with the certificates of one client, named as libnbd and qemu look for them.
func clientDir(t *testing.T, a *testenv.Authority, name string) string {
	t.Helper()
	dir := t.TempDir()
	for from, to := range map[string]string{"ca-cert.pem": "ca-cert.pem", name + "-cert.pem": "client-cert.pem", name + "-key.pem": "client-key.pem"} {
		pem, err := os.ReadFile(a.Path(from))
		if err != nil {
			t.Fatal(err)
		}
		testenv.WriteFile(t, filepath.Join(dir, to), pem)
	}
	return dir
}

// TestExportSocketAccess looks at who owns the socket.
func TestExportSocketAccess(t *testing.T) {
	socket := filepath.Join(publicDir(t), "s")
	for _, c := range []struct {
		args, want string
		peers      bool
	}{
		{"", "600 " + fmt.Sprint(os.Getuid()) + " " + fmt.Sprint(os.Getgid()), false},
		{"--socket-mode 0660 --socket-owner nobody --socket-group 12346", "660 65534 12346", true},
	} {
		if c.peers && os.Getuid() != 0 {
			t.Skip("NOT RUN: giving a socket away takes root")
		}
		p := testenv.StartCmd(t, command(append([]string{"export", "mem:1M", "--socket", socket}, strings.Fields(c.args)...)...))
		u := p.WaitLine("nbd+unix:")
		if got := strings.TrimSpace(testenv.Run(t, "stat", "-c", "%a %u %g", socket)); got != c.want {
			t.Errorf("%s: the socket is %s, want %s", c.args, got, c.want)
		}
		if r := as(t, "12345", "12345", "", "nbdinfo", "--size", u); r.ExitCode == 0 {
			t.Errorf("%s: another user could connect", c.args)
		}
		if r := as(t, "12345", "12345", "12346", "nbdinfo", "--size", u); (r.ExitCode == 0) != c.peers {
			t.Errorf("%s: a member of the group: %s", c.args, r)
		}
		if code := p.Stop(); code != 0 {
			t.Errorf("exit code %d\n%s", code, p.Output())
		}
	}
	if r := luksgate(t, "export", "mem:1M", "--socket", socket, "--socket-owner", "no-such-user"); r.ExitCode == 0 || !strings.Contains(r.Stderr, "no user") {
		t.Errorf("an unknown owner: %s", r)
	}
}

// TestExportAllowsUsersAndGroups has an export on a socket that everybody can reach, and a policy.
func TestExportAllowsUsersAndGroups(t *testing.T) {
	socket := filepath.Join(publicDir(t), "s")
	p := testenv.StartCmd(t, command("export", "mem:1M", "--socket", socket, "--socket-mode", "0666", "--description", "topsecret",
		"--allow-user", "nobody", "--allow-user", "12350", "--allow-group", "12347"))
	u := p.WaitLine("nbd+unix:")
	for _, c := range []struct {
		who, uid, gid, groups string
		ok                    bool
	}{
		{"root", "0", "0", "", false},
		{"user by name", "65534", "12345", "", true},
		{"user by number", "12350", "12345", "", true},
		{"group", "12345", "12347", "", true},
		{"supplementary group", "12345", "12346", "12348,12347", true},
		{"stranger", "12345", "12346", "12348", false},
	} {
		r := as(t, c.uid, c.gid, c.groups, "nbdinfo", u)
		if (r.ExitCode == 0) != c.ok {
			t.Errorf("%s: %s", c.who, r)
		}
		list := as(t, c.uid, c.gid, c.groups, "nbdinfo", "--list", u)
		if strings.Contains(list.Stdout, "topsecret") != c.ok {
			t.Errorf("list for %s: %s", c.who, list)
		}
		if c.ok {
			continue
		}
		if said := r.String() + list.String(); strings.Contains(said, "topsecret") || strings.Contains(said, "1048576") {
			t.Errorf("%s is told of the export: %s", c.who, said)
		}
		if r := as(t, c.uid, c.gid, c.groups, "qemu-img", "info", u); !strings.Contains(r.Stderr, "Denied by server") || !strings.Contains(r.Stderr, "not allowed") {
			t.Errorf("%s is not told that it is a matter of policy: %s", c.who, r)
		}
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"reason=policy", "peer.uid=12345", "peer.gid=12346", "no user 12345 and none of the groups [12346 12348]"} {
		if !strings.Contains(p.Output(), want) {
			t.Errorf("the log says nothing of %q:\n%s", want, p.Output())
		}
	}
}

// TestExportTLS has libnbd and qemu speak TLS to an export, on a unix socket and over TCP, with certificates of several
// names.
func TestExportTLS(t *testing.T) {
	a := testenv.NewAuthority(t)
	a.Issue("server", 2)
	a.Issue("alice", 3)
	a.Issue("mallory", 4)
	a.Issue("host", 5, "c1.compute.example.com")
	server := []string{"--tls-cert", a.Path("server-cert.pem"), "--tls-key", a.Path("server-key.pem")}
	verified := append(server, "--tls-ca", a.Path("ca-cert.pem"))
	sizeOf := func(u, client string) testenv.Result {
		separator := "?"
		if strings.Contains(u, "?") {
			separator = "&"
		}
		return testenv.Try(t, "nbdinfo", "--size", u+separator+"tls-certificates="+clientDir(t, a, client))
	}

	// Without --tls-ca the server alone shows a certificate; required is the default, and the URI says it.
	g := export(t, append([]string{"mem:1M"}, server...)...)
	if plain := testenv.Try(t, "nbdinfo", "nbd+unix:///?socket="+g.socket); plain.ExitCode == 0 {
		t.Errorf("an export without TLS: %s", plain)
	}
	g.stop(t)
	if !strings.HasPrefix(g.uri, "nbds+unix:///mem?") {
		t.Errorf("URI %s", g.uri)
	}

	g = export(t, append([]string{"mem:1M", "--tls", "optional"}, server...)...)
	for _, u := range []string{g.uri, strings.Replace(g.uri, "nbd+unix", "nbds+unix", 1)} {
		if r := sizeOf(u, "alice"); r.ExitCode != 0 {
			t.Errorf("%s: %s", u, r)
		}
	}
	g.stop(t)

	g = export(t, append([]string{"mem:1M", "--allow-certificate", "alice", "--allow-certificate", "*.compute.example.com"}, verified...)...)
	for name, ok := range map[string]bool{"alice": true, "host": true, "mallory": false} {
		r := sizeOf(g.uri, name)
		if (r.ExitCode == 0) != ok {
			t.Errorf("certificate of %s: %s", name, r)
		}
	}
	g.stop(t)
	if !strings.Contains(g.Output(), "peer.certificate=mallory") || !strings.Contains(g.Output(), "reason=policy") {
		t.Errorf("the log does not say whom it refused:\n%s", g.Output())
	}

	p := testenv.StartCmd(t, command(append([]string{"export", "mem:1M", "--listen", "127.0.0.1:0", "--allow-certificate", "alice"}, verified...)...))
	_, port, err := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(p.WaitLine("nbds://"), "nbds://"), "/mem"))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("qemu", func(t *testing.T) { qemuTLS(t, testenv.Here(t), a, port) })
	t.Run("qemu-5.2", func(t *testing.T) { qemuTLS(t, testenv.Chroot(t, "bullseye"), a, port) })
	if code := p.Stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.Output())
	}
}

// qemuTLS has a qemu speak TLS of both versions to an export on TCP that allows alice and nobody else.
func qemuTLS(t *testing.T, s testenv.System, a *testenv.Authority, port string) {
	for _, c := range []struct {
		client, priority string
		ok               bool
	}{
		{"alice", "NORMAL", true},
		{"alice", "NORMAL:-VERS-TLS1.3", true}, // as gnutls was when qemu 4.2 was new
		{"mallory", "NORMAL", false},
	} {
		dir := filepath.Join(s.Dir, c.client)
		if err := os.CopyFS(dir, os.DirFS(clientDir(t, a, c.client))); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
		r := testenv.RunCmd(t, s.Command(t, "qemu-io", "--object", "tls-creds-x509,id=t,endpoint=client,priority="+c.priority+",dir="+dir,
			"--image-opts", "driver=nbd,server.type=inet,server.host=localhost,server.port="+port+",export=mem,tls-creds=t",
			"-c", "write -P 3 0 64k", "-c", "read -P 3 0 64k"))
		if (r.ExitCode == 0) != c.ok || strings.Contains(r.Stdout, "failed") || !c.ok && !strings.Contains(r.Stderr, "Denied by server") {
			t.Errorf("the certificate of %s with %s: %s", c.client, c.priority, r)
		}
	}
}

// TestServeAllows proves that a stranger costs nothing: no key is fetched and no image is opened for one.
func TestServeAllows(t *testing.T) {
	luks := testenv.NewLUKSFile(t, testenv.LUKSOptions{Plaintext: make([]byte, 1<<20)})
	marker := filepath.Join(t.TempDir(), "fetched")
	script := testenv.WriteFile(t, filepath.Join(t.TempDir(), "key"), []byte("#!/bin/sh\necho x >>"+marker+"\ncat "+luks.PassphrasePath+"\n"))
	if err := os.Chmod(script, 0o700); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf(`
defaults: {close_after: 1h}
listen: [{socket: DIR/all.sock, mode: "0666"}]
exports:
  - {name: disk, image: "file:%s", key: {command: [%s]}, allow: {users: [12345], groups: [12347]}}
  - {name: open, image: "mem:1M"}
`, luks.Path, script)
	d := serveDaemon(t, conf)
	if err := os.Chmod(d.dir, 0o711); err != nil {
		t.Fatal(err)
	}
	u := d.uri("disk", "all.sock")
	fetched := func() int {
		b, _ := os.ReadFile(marker)
		return len(b) / 2
	}
	for _, tool := range [][]string{{"nbdinfo", u}, {"nbdinfo", "--map", u}, {"qemu-img", "info", "-f", "raw", u}, {"nbdinfo", "--list", u}} {
		r := as(t, "12346", "12346", "", tool...)
		if strings.Contains(r.Stdout, `export="disk"`) || tool[1] != "--list" && r.ExitCode == 0 {
			t.Errorf("a stranger: %s", r)
		}
	}
	if n, e := fetched(), d.export("disk"); n != 0 || e.State != api.StateClosed || e.Error != "" {
		t.Errorf("for a stranger the key was fetched %d times, and the export is %+v", n, e)
	}
	_, metrics := d.get("/metrics")
	if !strings.Contains(metrics, `luksgate_handshake_failures_total{reason="policy"} 3`) || !strings.Contains(metrics, `luksgate_export_open{export="disk"} 0`) {
		t.Error("metrics do not tell of three refusals and no open")
	}
	if r := as(t, "12345", "12345", "", "nbdinfo", "--list", u); !strings.Contains(r.Stdout, `export="disk"`) || !strings.Contains(r.Stdout, `export="open"`) {
		t.Errorf("list for a client that is allowed: %s", r)
	}
	if r := as(t, "12346", "12346", "12347", "nbdinfo", u); r.ExitCode != 0 || fetched() != 1 {
		t.Errorf("%d fetches, %s", fetched(), r)
	}

	// A changed policy is for the next client, also while the image is open.
	d.write(strings.Replace(conf, "users: [12345]", "users: [12349]", 1))
	d.must("reload")
	if r := as(t, "12345", "12345", "", "nbdinfo", u); r.ExitCode == 0 {
		t.Errorf("no longer allowed: %s", r)
	}
	if r := as(t, "12349", "12345", "", "nbdinfo", u); r.ExitCode != 0 {
		t.Errorf("allowed now: %s", r)
	}
	d.stop()
}

// TestUpgradeKeepsClientsOfAnEarlierPolicy changes who is allowed together with the process: the client that is there stays.
func TestUpgradeKeepsClientsOfAnEarlierPolicy(t *testing.T) {
	conf := fmt.Sprintf("exports:\n  - {name: a, image: \"file:DIR/img\", plain: true, socket: DIR/a.sock, allow: {users: [%d]}}\n", os.Getuid())
	dir := testenv.SocketDir(t)
	testenv.WriteFile(t, filepath.Join(dir, "img"), make([]byte, 1<<20))
	conf = strings.Replace(conf, "DIR/img", filepath.Join(dir, "img"), 1)
	d := serveDaemon(t, conf)
	c := dial(t, d.socket("a.sock"))
	d.write(strings.Replace(conf, fmt.Sprintf("[%d]", os.Getuid()), "[54321]", 1))
	d.must("upgrade")
	if err := c.doWrite(1, 0, []byte("still here")); err != nil {
		t.Error(err)
	}
	if r := testenv.Try(t, "nbdinfo", d.uri("a", "a.sock")); r.ExitCode == 0 {
		t.Errorf("a new client by the old policy: %s", r)
	}
	c.c.Close()
	v, err := d.client.Version(context.Background())
	if err != nil || v.PID == d.PID() {
		t.Fatalf("%+v, %v", v, err)
	}
	if err := syscall.Kill(v.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	d.wait("the successor ends", func() bool {
		_, err := os.Stat(d.socket("a.sock"))
		return os.IsNotExist(err)
	})
}

// TestConfigCheckKnowsUsers finds mistakes in policies before clients do.
func TestConfigCheckKnowsUsers(t *testing.T) {
	file := testenv.WriteFile(t, filepath.Join(t.TempDir(), "f"), []byte(`
exports:
  - {name: a, image: "mem:1M", socket: /a.sock, allow: {users: [no-such-user], groups: [no-such-group]}}
  - {name: b, image: "mem:1M", socket: /b.sock, allow: {}}
  - {name: c, image: "mem:1M", socket: /c.sock, allow: {certificates: ["a*.example.com"]}}
`))
	r := luksgate(t, "config", "check", "--config", file)
	for _, want := range []string{`line 3: exports[0].allow.users[0]: there is no user "no-such-user"`, `there is no group "no-such-group"`,
		"line 4: exports[1].allow: allow names nobody", "line 5: exports[2].allow.certificates[0]", `nobody can ever open export "c"`} {
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("no %q", want)
		}
	}
	if r.ExitCode != exitUsage || t.Failed() {
		t.Error(r)
	}
}
