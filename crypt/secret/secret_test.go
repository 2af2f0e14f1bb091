// SPDX-License-Identifier: Apache-2.0

package secret_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
	"unsafe"

	"github.com/luksgate/luksgate/crypt/secret"
	"golang.org/x/sys/unix"
)

func TestNewIsZeroAndHasItsLength(t *testing.T) {
	for _, n := range []int{0, 1, 32, 4095, 4096, 4097, 100000} {
		s, err := secret.New(n)
		if err != nil {
			t.Fatalf("New(%d): %v", n, err)
		}
		if s.Len() != n || len(s.Bytes()) != n || cap(s.Bytes()) != n {
			t.Errorf("New(%d): length %d, capacity %d", n, s.Len(), cap(s.Bytes()))
		}
		for i, b := range s.Bytes() {
			if b != 0 {
				t.Fatalf("New(%d): byte %d is %#x", n, i, b)
			}
		}
		s.Release()
	}
	if _, err := secret.New(-1); err == nil {
		t.Error("New(-1) did not fail")
	}
}

func TestReleaseIsIdempotentAndLeavesNothing(t *testing.T) {
	s, err := secret.Copy([]byte("volume key"))
	if err != nil {
		t.Fatal(err)
	}
	shared := *s
	s.Release()
	s.Release()
	if s.Bytes() != nil || s.Len() != 0 || s.Locked() || shared.Bytes() != nil {
		t.Error("a released secret still has content")
	}
	var none *secret.Bytes
	none.Release()
	(&secret.Bytes{}).Release()
}

func TestEqual(t *testing.T) {
	mk := func(b string) *secret.Bytes {
		s, err := secret.Copy([]byte(b))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Release)
		return s
	}
	a := mk("abc")
	for other, want := range map[string]bool{"abc": true, "abd": false, "ab": false, "": false} {
		if got := a.Equal(mk(other)); got != want {
			t.Errorf("Equal(%q) = %v", other, got)
		}
	}
	if a.Equal(nil) {
		t.Error("equal to nil")
	}
}

func TestNothingPrintsTheContent(t *testing.T) {
	const canary = "canary-passphrase"
	s, err := secret.Copy([]byte(canary))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	type holder struct {
		Key   *secret.Bytes
		Value secret.Bytes
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%c"} {
		fmt.Fprintf(&out, verb+verb+verb, s, *s, holder{s, *s})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "k", s, "v", *s, "h", holder{s, *s})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "k", s, "v", *s, "h", holder{s, *s})
	js, err := json.Marshal(map[string]any{"a": s, "b": *s, "c": holder{s, *s}})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(js)
	out.WriteString(s.String() + s.GoString())
	for _, leak := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprintf("%d", []byte(canary)), "Y2FuYXJ5"} {
		if strings.Contains(out.String(), leak) {
			t.Fatalf("content printed as %q", leak)
		}
	}
	if !strings.Contains(string(js), `"a":"[secret]"`) || !strings.Contains(out.String(), "[secret]") {
		t.Errorf("expected [secret] in %s", out.String())
	}
}

func TestReadAll(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789"), 3000)
	for _, tc := range []struct {
		in    []byte
		limit int
		ok    bool
	}{
		{nil, 0, true}, {nil, 10, true}, {[]byte("a"), 0, false}, {[]byte("a"), 1, true}, {[]byte("ab\n"), 3, true},
		{big, len(big), true}, {big, len(big) - 1, false}, {big, 1 << 20, true}, {big[:4096], 4096, true}, {big[:4096], 4095, false},
	} {
		for _, r := range []io.Reader{bytes.NewReader(tc.in), iotest.OneByteReader(bytes.NewReader(tc.in)), iotest.DataErrReader(bytes.NewReader(tc.in))} {
			s, err := secret.ReadAll(r, tc.limit)
			if !tc.ok {
				if !errors.Is(err, secret.ErrTooLong) {
					t.Errorf("%d bytes, limit %d: error %v", len(tc.in), tc.limit, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%d bytes, limit %d: %v", len(tc.in), tc.limit, err)
			}
			if !bytes.Equal(s.Bytes(), tc.in) {
				t.Errorf("%d bytes, limit %d: content differs", len(tc.in), tc.limit)
			}
			s.Release()
		}
	}
	boom := errors.New("boom")
	if _, err := secret.ReadAll(iotest.ErrReader(boom), 10); !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
	if _, err := secret.ReadAll(stuck{}, 10); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("stuck reader: %v", err)
	}
	if _, err := secret.ReadAll(stuck{}, -1); err == nil {
		t.Error("negative limit accepted")
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// TestKernelAgrees asks the kernel for the flags of the mapping: locked (lo), not dumped (dd), wiped on fork (wf).
func TestKernelAgrees(t *testing.T) {
	s, err := secret.Copy([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	flags := vmFlags(t, uintptr(unsafe.Pointer(&s.Bytes()[0])))
	for _, want := range []string{"dd", "wf"} {
		if !strings.Contains(flags, " "+want) {
			t.Errorf("flag %s missing in %q", want, flags)
		}
	}
	if s.Locked() != strings.Contains(flags, " lo") {
		t.Errorf("Locked() is %v, kernel says %q", s.Locked(), flags)
	}
	if !s.Locked() && secret.LockError() == nil {
		t.Error("not locked and no LockError")
	}
}

// vmFlags returns the VmFlags line of the mapping that holds addr.
func vmFlags(t *testing.T, addr uintptr) string {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Skipf("no smaps: %v", err)
	}
	defer func() { _ = f.Close() }()
	in := false
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var lo, hi uintptr
		if n, _ := fmt.Sscanf(sc.Text(), "%x-%x ", &lo, &hi); n == 2 {
			in = addr >= lo && addr < hi
		}
		if in && strings.HasPrefix(sc.Text(), "VmFlags:") {
			return sc.Text() + " "
		}
	}
	t.Fatal("mapping not found")
	return ""
}

const childEnv = "LUKSGATE_SECRET_TEST_CHILD"

// TestInChildProcess runs in a child because limits and the dumpable flag cannot be taken back.
func TestInChildProcess(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-test.run=^TestInChildProcess$", "-test.v")
		cmd.Env = append(os.Environ(), childEnv+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("child: %v\n%s", err, out)
		}
		return
	}
	if err := secret.HardenProcess(); err != nil {
		t.Fatal(err)
	}
	if v, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || v != 0 {
		t.Errorf("dumpable flag is %d, %v", v, err)
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core.Cur != 0 || core.Max != 0 {
		t.Errorf("RLIMIT_CORE is %v, %v", core, err)
	}
	unlockable(t)
}

// unlockable takes the right to lock memory away and checks that secrets still work and say so. Root may always lock, so
// the child gives CAP_IPC_LOCK up first.
func unlockable(t *testing.T) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capset(&hdr, &caps[0]); err != nil {
		t.Skipf("cannot drop capabilities: %v", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{}); err != nil {
		t.Fatal(err)
	}
	s, err := secret.Copy([]byte("still works"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	if string(s.Bytes()) != "still works" {
		t.Error("content differs")
	}
	if s.Locked() {
		t.Error("Locked although the limit is 0")
	}
	if err := secret.LockError(); err == nil || !strings.Contains(err.Error(), "RLIMIT_MEMLOCK") {
		t.Errorf("LockError is %v", err)
	}
}

func TestWipe(t *testing.T) {
	b := []byte("passphrase")
	secret.Wipe(b[:4])
	if string(b) != "\x00\x00\x00\x00phrase" {
		t.Errorf("%q", b)
	}
}
