// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"

	"github.com/luksgate/luksgate/gateway/access"
)

// allow finds rules that name nobody, or that nobody could ever fit: both are mistakes that shut clients out.
func (k *checker) allow(key string, e *Export) {
	if e.Allow == nil {
		return
	}
	key = k.allowKey(key)
	rules := e.Allow.Rules()
	if rules.Empty() {
		k.fail(key, "leave it out to let in everybody who can connect", "allow names nobody")
	}
	for i, name := range rules.Users {
		if _, err := access.UserID(name); err != nil {
			k.fail(fmt.Sprintf("%s.users[%d]", key, i), "", "%v", err)
		}
	}
	for i, name := range rules.Groups {
		if _, err := access.GroupID(name); err != nil {
			k.fail(fmt.Sprintf("%s.groups[%d]", key, i), "", "%v", err)
		}
	}
	for i, name := range rules.Certificates {
		if err := access.CheckCertificateName(name); err != nil {
			k.fail(fmt.Sprintf("%s.certificates[%d]", key, i), "", "%v", err)
		}
	}
	certificates, credentials := k.identities(e)
	possible := certificates && len(rules.Certificates) > 0 || credentials && len(rules.Users)+len(rules.Groups) > 0
	if !possible && !rules.Empty() {
		k.fail(key, "users and groups are known of clients of unix sockets, certificates where listen has tls.client_ca",
			"nobody can ever open export %q: no socket of it tells what allow asks for", e.Name)
	}
}

// allowKey is where an export's rules are written: with it, or in the defaults.
func (k *checker) allowKey(key string) string {
	if own := key + ".allow"; k.c.lines[own] > 0 || k.c.lines["defaults.allow"] == 0 {
		return own
	}
	return "defaults.allow"
}

// identities says what can be known of the clients of an export, from the sockets at which it can be had.
func (k *checker) identities(e *Export) (certificates, credentials bool) {
	credentials = e.Socket != ""
	for i := range k.c.Listen {
		l := &k.c.Listen[i]
		if !l.Has(e.Name) {
			continue
		}
		certificates = certificates || l.TLS != nil && l.TLS.ClientCA != ""
		credentials = credentials || l.Socket != ""
	}
	return certificates, credentials
}
