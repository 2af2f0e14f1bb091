// SPDX-License-Identifier: Apache-2.0

package attachtest

import "testing"

// The checker itself must reject what libvirt 6.0 rejects.
func TestRulesReject(t *testing.T) {
	wrap := func(driver, source, hosts string) string {
		return `<disk type="network"><driver name="qemu" ` + driver + `/><source protocol="nbd" ` + source + `>` + hosts +
			`</source><target dev="vda"/></disk>`
	}
	unix := `<host transport="unix" socket="/s"/>`
	if err := CheckLibvirt60(wrap(`cache="none"`, `name="e"`, unix)); err != nil {
		t.Errorf("a good disk: %v", err)
	}
	for name, bad := range map[string]string{
		"encryption":       wrap(``, ``, unix+`<encryption format="luks"/>`),
		"two hosts":        wrap(``, ``, unix+unix),
		"no host":          wrap(``, ``, ``),
		"reconnect":        wrap(``, ``, unix+`<reconnect delay="5"/>`),
		"tlsHostname":      wrap(``, `tlsHostname="h"`, unix),
		"seclabel":         wrap(``, ``, unix+`<seclabel model="dac" relabel="no"/>`),
		"relative":         wrap(``, ``, `<host transport="unix" socket="s"/>`),
		"io_uring":         wrap(`io="io_uring"`, ``, unix),
		"queue_size":       wrap(`queue_size="256"`, ``, unix),
		"discard_no_unref": wrap(`discard_no_unref="on"`, ``, unix),
		"tls on unix":      wrap(``, `tls="yes"`, unix),
	} {
		if err := CheckLibvirt60(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
