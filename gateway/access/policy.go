// SPDX-License-Identifier: Apache-2.0

package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/luksgate/luksgate/nbdserver"
)

// Rules name the clients that may open an export. A client that one of them names may; without any rule everybody may
// who can connect.
type Rules struct {
	// Users and Groups are names or numbers, for clients of unix sockets: the user and the groups of the process that
	// connected, as the kernel has them from then.
	Users, Groups []string
	// Certificates are names for clients that have shown a certificate of the client CA: its common name or one of its
	// DNS names. *.example.com is any one label below example.com.
	Certificates []string
}

// Empty tells whether there is no rule, which is not the same as rules that fit nobody.
func (r *Rules) Empty() bool {
	return len(r.Users) == 0 && len(r.Groups) == 0 && len(r.Certificates) == 0
}

// A Policy is Rules with the names looked up. A nil one allows everybody. It does not change, so many goroutines may use
// it at once.
type Policy struct {
	users, groups []uint32
	certificates  []string
}

// NewPolicy looks up the names of rules. Without any rule it returns nil.
func NewPolicy(rules Rules) (*Policy, error) {
	if rules.Empty() {
		return nil, nil
	}
	p := &Policy{}
	for _, name := range rules.Users {
		n, err := UserID(name)
		if err != nil {
			return nil, fmt.Errorf("access: %w", err)
		}
		p.users = append(p.users, n)
	}
	for _, name := range rules.Groups {
		n, err := GroupID(name)
		if err != nil {
			return nil, fmt.Errorf("access: %w", err)
		}
		p.groups = append(p.groups, n)
	}
	for _, name := range rules.Certificates {
		if err := CheckCertificateName(name); err != nil {
			return nil, fmt.Errorf("access: %w", err)
		}
		p.certificates = append(p.certificates, name)
	}
	return p, nil
}

// maxNameBytes is the longest DNS name; a common name has at most 64 bytes (X.520).
const maxNameBytes = 255

// CheckCertificateName says what is wrong with a rule for certificates.
func CheckCertificateName(name string) error {
	rest := strings.TrimPrefix(name, "*.")
	switch {
	case name == "":
		return errors.New("a certificate's name is empty")
	case len(name) > maxNameBytes:
		return fmt.Errorf("certificate %.32q...: the name has %d bytes, at most %d allowed", name, len(name), maxNameBytes)
	case strings.Contains(rest, "*"):
		return fmt.Errorf("certificate %q: a * may only stand for the whole first label, as in *.example.com", name)
	case rest != name && !strings.Contains(rest, "."):
		return fmt.Errorf("certificate %q: at least two labels must follow the *", name)
	}
	return nil
}

// Check returns nil if peer may open the export, else an error that wraps nbdserver.ErrDenied and says for the log what
// peer is.
func (p *Policy) Check(peer *nbdserver.Peer) error {
	if p == nil || p.allows(peer) {
		return nil
	}
	if peer == nil {
		peer = &nbdserver.Peer{}
	}
	switch names := peer.CertificateNames(); {
	case len(names) > 0:
		return fmt.Errorf("%w: the policy has no certificate %q", nbdserver.ErrDenied, names)
	case peer.HasCredentials:
		return fmt.Errorf("%w: the policy has no user %d and none of the groups %d", nbdserver.ErrDenied, peer.UID, peer.AllGroups())
	case peer.TLS != nil:
		return fmt.Errorf("%w: a client without certificate", nbdserver.ErrDenied)
	}
	return fmt.Errorf("%w: nothing is known of the client", nbdserver.ErrDenied)
}

func (p *Policy) allows(peer *nbdserver.Peer) bool {
	if peer == nil {
		return false
	}
	if peer.HasCredentials {
		if slices.Contains(p.users, peer.UID) {
			return true
		}
		if slices.ContainsFunc(peer.AllGroups(), func(g uint32) bool { return slices.Contains(p.groups, g) }) {
			return true
		}
	}
	return slices.ContainsFunc(peer.CertificateNames(), func(name string) bool {
		return slices.ContainsFunc(p.certificates, func(rule string) bool { return matches(rule, name) })
	})
}

// matches compares a rule with a name of a certificate as RFC 6125 has it: without regard to case, a * for exactly the
// first label. A * in the certificate is a letter like any other, so that it fits no more than the rule says.
func matches(rule, name string) bool {
	if suffix, wild := strings.CutPrefix(rule, "*"); wild {
		first, _, more := strings.Cut(name, ".")
		return more && first != "" && first != "*" && strings.EqualFold(name[len(first):], suffix)
	}
	return strings.EqualFold(rule, name)
}
