// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"regexp"
	"strings"
)

var uuidText = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// sources names the sources that a key has.
func (s *Key) sources() []string {
	var out []string
	for _, one := range []struct {
		name string
		set  bool
	}{
		{"file", s.File != ""}, {"fd", s.FD != nil}, {"credential", s.Credential != ""}, {"command", len(s.Command) > 0},
		{"libvirt_secret", s.LibvirtSecret != nil}, {"vault", s.Vault != nil}, {"barbican", s.Barbican != nil},
	} {
		if one.set {
			out = append(out, one.name)
		}
	}
	return out
}

func (k *checker) key(key string, s *Key) {
	switch set := s.sources(); len(set) {
	case 0:
		k.fail(key, "", "expected one of file, fd, credential, command, libvirt_secret, vault and barbican")
		return
	case 1:
	default:
		k.fail(key, "", "%s exclude each other", strings.Join(set, " and "))
	}
	k.file(key+".file", s.File)
	if s.FD != nil && (*s.FD < 3 || *s.FD > 1<<20) {
		k.fail(key+".fd", "", "%d: expected a descriptor that the daemon inherits, from 3 on", *s.FD)
	}
	if strings.ContainsAny(s.Credential, "/\x00") {
		k.fail(key+".credential", "it is the ID of LoadCredential= in the unit", "%q is no name of a credential", s.Credential)
	}
	if len(s.Command) > 0 {
		k.file(key+".command[0]", s.Command[0])
		if s.Command[0] == "" {
			k.fail(key+".command[0]", "", "the program is missing")
		}
	}
	if r := s.LibvirtSecret; r != nil {
		if (r.UUID == "") == (r.Usage == "") {
			k.fail(key+".libvirt_secret", "", "give one of uuid and usage")
		}
		if r.UUID != "" && !uuidText.MatchString(r.UUID) {
			k.fail(key+".libvirt_secret.uuid", "", "%q is no UUID", r.UUID)
		}
	}
	k.vaultKey(key+".vault", s.Vault)
	k.barbicanKey(key+".barbican", s.Barbican)
}

func (k *checker) vaultKey(key string, v *VaultRef) {
	if v == nil {
		return
	}
	if v.Path == "" {
		k.fail(key, "", "path is missing")
	}
	k.oneOf(key+".encoding", v.Encoding, "raw", "base64")
	if v.Version < 0 {
		k.fail(key+".version", "", "%d: expected a version, or 0 for the latest", v.Version)
	}
	if k.c.Vault.Address == "" {
		k.fail(key, "add a section vault with address and token, token_file or approle", "no Vault server is configured")
	}
}

func (k *checker) barbicanKey(key string, b *BarbicanRef) {
	if b == nil {
		return
	}
	id := b.Secret[strings.LastIndexByte(b.Secret, '/')+1:]
	if !uuidText.MatchString(id) {
		k.fail(key+".secret", "", "%q: expected the UUID of a secret, or its address, which ends in one", b.Secret)
	}
	k.oneOf(key+".encoding", b.Encoding, "hex", "raw")
	if k.c.Barbican.AuthURL == "" {
		k.fail(key, "add a section barbican with auth_url", "no OpenStack is configured")
	}
}

func (k *checker) vault() {
	v := k.c.Vault
	k.file("vault.ca_file", v.CAFile)
	k.file("vault.token_file", v.TokenFile)
	if v.Address == "" {
		return
	}
	k.url("vault.address", v.Address)
	given := 0
	for _, is := range []bool{v.Token != nil, v.TokenFile != "", v.AppRole != nil} {
		if is {
			given++
		}
	}
	if given != 1 {
		k.fail("vault", "", "give one of token, token_file and approle")
	}
	if v.Token != nil {
		k.key("vault.token", v.Token)
		if v.Token.Vault != nil {
			k.fail("vault.token", "", "it cannot be in Vault itself")
		}
	}
	if a := v.AppRole; a != nil {
		k.file("vault.approle.secret_id_file", a.SecretIDFile)
		if a.RoleID == "" {
			k.fail("vault.approle", "", "role_id is missing")
		}
	}
}

func (k *checker) barbican() {
	b := k.c.Barbican
	k.file("barbican.ca_file", b.CAFile)
	k.file("barbican.password_file", b.PasswordFile)
	if b.AuthURL == "" {
		return
	}
	k.url("barbican.auth_url", b.AuthURL)
	k.oneOf("barbican.interface", b.Interface, "public", "internal", "admin")
	if b.PasswordFile == "" {
		k.fail("barbican", "", "password_file is missing")
	}
	if (b.Username == "") == (b.ApplicationCredentialID == "") {
		k.fail("barbican", "", "give one of username and application_credential_id")
	}
	if b.Username != "" && b.Project == "" {
		k.fail("barbican", "", "project is missing")
	}
}

// url takes https, and http for a server on this host only: what comes back are keys.
func (k *checker) url(key, address string) {
	rest, secure := strings.CutPrefix(address, "https://")
	if secure && rest != "" {
		return
	}
	host, plain := strings.CutPrefix(address, "http://")
	for _, local := range []string{"127.0.0.1", "[::1]", "localhost"} {
		if plain && (host == local || strings.HasPrefix(host, local+":") || strings.HasPrefix(host, local+"/")) {
			return
		}
	}
	k.fail(key, "", "%s", fmt.Sprintf("%q: expected https:// (http:// is for a server on this host only)", address))
}
