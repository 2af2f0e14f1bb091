// SPDX-License-Identifier: Apache-2.0

// Package config reads the daemon's configuration file, luksgate.conf(5).
//
// The file is YAML and read strictly: an unknown key, a second one of the same name, a value of the wrong kind or out of
// range is an error that names its line, and says what may have been meant. All mistakes of a file are found in one go.
//
// The package only reads: it opens no image, fetches no key, and asks for nothing but the configuration and the users and
// groups that it names.
package config

import (
	"time"

	"github.com/luksgate/luksgate/gateway/access"
)

// A File is a whole configuration. Parse fills in the defaults.
type File struct {
	Admin   Admin   `yaml:"admin"`
	Metrics Metrics `yaml:"metrics"`
	Log     Log     `yaml:"log"`
	Limits  Limits  `yaml:"limits"`
	// Listen are sockets that several exports share.
	Listen []Listen `yaml:"listen"`
	// Where keys are, for key sources that name them.
	Libvirt  Libvirt  `yaml:"libvirt"`
	Vault    Vault    `yaml:"vault"`
	Barbican Barbican `yaml:"barbican"`
	// Defaults are for what exports do not say themselves.
	Defaults Defaults `yaml:"defaults"`
	Exports  []Export `yaml:"exports"`

	lines map[string]int // of keys such as exports[2].image
}

// Admin is the control socket.
type Admin struct {
	Socket string     `yaml:"socket"`
	Access SocketMode `yaml:",inline"`
}

// SocketMode says who may connect to a unix socket.
type SocketMode struct {
	Mode  Mode   `yaml:"mode"`
	Owner string `yaml:"owner"`
	Group string `yaml:"group"`
}

// Metrics is where Prometheus may come, besides the admin socket.
type Metrics struct {
	// Address is HOST:PORT; empty means nowhere.
	Address string `yaml:"address"`
}

// Log says what is logged how.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Limits bound what clients can make the daemon do; zero means the server's default.
type Limits struct {
	Connections          int      `yaml:"connections"`
	ConnectionsPerExport int      `yaml:"connections_per_export"`
	Handshake            Duration `yaml:"handshake"`
	Stall                Duration `yaml:"stall"`
	RequestSize          Size     `yaml:"request_size"`
	InFlight             int      `yaml:"in_flight"`
	InFlightSize         Size     `yaml:"in_flight_size"`
	Buffers              Size     `yaml:"buffers"`
	HandshakeOptions     int      `yaml:"handshake_options"`
	OptionSize           Size     `yaml:"option_size"`
	// Idle is how long a client may ask for nothing; zero is for ever.
	Idle Duration `yaml:"idle"`
	// Poll is how long a connection may look at its socket before it sleeps, at most MaxPoll; zero is not at all.
	Poll Duration `yaml:"poll"`
	// Upgrade is how long requests may be held back while a new process takes over.
	Upgrade Duration `yaml:"upgrade"`
}

// MaxPoll is the longest Limits.Poll.
const MaxPoll = time.Millisecond

// A Listen is a socket for several exports: exactly one of Socket and Address is set.
type Listen struct {
	Socket  string     `yaml:"socket"`
	Access  SocketMode `yaml:",inline"`
	Address string     `yaml:"address"`
	TLS     *TLS       `yaml:"tls"`
	// Exports are the names, or patterns with * and ?, that can be had here; none means all.
	Exports []string `yaml:"exports"`
}

// TLS are the files of a server's identity.
type TLS struct {
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	ClientCA    string `yaml:"client_ca"`
	// Required refuses clients without TLS; true unless it is set to false.
	Required *bool `yaml:"required"`
}

// Defaults are for what exports do not say themselves.
type Defaults struct {
	Ceph        Ceph       `yaml:"ceph"`
	Engine      string     `yaml:"engine"`
	Lock        string     `yaml:"lock"`
	Holes       string     `yaml:"holes"`
	Zeroes      string     `yaml:"zeroes"`
	Open        string     `yaml:"open"`
	CloseAfter  *Duration  `yaml:"close_after"`
	OpenTimeout Duration   `yaml:"open_timeout"`
	Access      SocketMode `yaml:"socket_access"`
	Allow       *Allow     `yaml:"allow"`
	// KDFMemoryLimit is as in Export.
	KDFMemoryLimit Size `yaml:"kdf_memory_limit"`
}

// When an image is opened.
const (
	OpenOnDemand = "demand"
	OpenAtStart  = "start"
)

// An Export is one image that the daemon serves.
type Export struct {
	Name        string `yaml:"name"`
	Description string `yaml:"description,omitempty"`
	Image       string `yaml:"image"`
	// Socket is a unix socket for this export alone.
	Socket string     `yaml:"socket,omitempty"`
	Access SocketMode `yaml:"socket_access,omitempty"`
	// Allow says who may open the export; nil is everybody who can connect.
	Allow    *Allow `yaml:"allow,omitempty"`
	ReadOnly bool   `yaml:"read_only,omitempty"`
	Plain    bool   `yaml:"plain,omitempty"`
	Ceph     Ceph   `yaml:"ceph,omitempty"`
	// Key opens the image; Keys open it and its ancestors with keys of their own, child first. One of them is given.
	Key  *Key  `yaml:"key,omitempty"`
	Keys []Key `yaml:"keys,omitempty"`
	// Header is the file of a detached header; empty: the header is in the image.
	Header string `yaml:"header,omitempty"`
	// KDFMemoryLimit is the most memory that a key derivation may take; zero is the default of package kdf.
	KDFMemoryLimit Size `yaml:"kdf_memory_limit,omitempty"`

	Engine string `yaml:"engine,omitempty"`
	Lock   string `yaml:"lock,omitempty"`
	Holes  string `yaml:"holes,omitempty"`
	Zeroes string `yaml:"zeroes,omitempty"`
	// Open is OpenOnDemand or OpenAtStart; CloseAfter is how long after the last client's end the image closes.
	Open        string    `yaml:"open,omitempty"`
	CloseAfter  *Duration `yaml:"close_after,omitempty"`
	OpenTimeout Duration  `yaml:"open_timeout,omitempty"`
	// Libvirt belongs to `luksgate xml`, which finds its way back by it. It is not looked at.
	Libvirt map[string]any `yaml:"libvirt,omitempty"`
}

// Allow names the clients that may open an export, see access.Rules.
type Allow struct {
	Users        []ID     `yaml:"users,omitempty"`
	Groups       []ID     `yaml:"groups,omitempty"`
	Certificates []string `yaml:"certificates,omitempty"`
}

// Rules are a's rules; a nil one has none.
func (a *Allow) Rules() access.Rules {
	if a == nil {
		return access.Rules{}
	}
	r := access.Rules{Certificates: a.Certificates}
	for _, u := range a.Users {
		r.Users = append(r.Users, string(u))
	}
	for _, g := range a.Groups {
		r.Groups = append(r.Groups, string(g))
	}
	return r
}

// Ceph says how to reach a cluster.
type Ceph struct {
	User     string   `yaml:"user,omitempty"`
	Conf     string   `yaml:"conf,omitempty"`
	MonHosts []string `yaml:"mon_hosts,omitempty"`
	// ImagesPerConnection is how many images share a connection; zero is the default of package rbd.
	ImagesPerConnection int `yaml:"images_per_connection,omitempty"`
	// Key is where the user's key is, if not where ceph.conf says.
	Key *Key `yaml:"key,omitempty"`
}

// A Key says where a secret is; it never holds one. Exactly one source is set.
type Key struct {
	File          string       `yaml:"file,omitempty"`
	FD            *int         `yaml:"fd,omitempty"`
	Credential    string       `yaml:"credential,omitempty"`
	Command       []string     `yaml:"command,omitempty"`
	LibvirtSecret *SecretRef   `yaml:"libvirt_secret,omitempty"`
	Vault         *VaultRef    `yaml:"vault,omitempty"`
	Barbican      *BarbicanRef `yaml:"barbican,omitempty"`
	TrimNewline   bool         `yaml:"trim_newline,omitempty"`
	Timeout       Duration     `yaml:"timeout,omitempty"`
}

// A SecretRef names a secret of libvirt: exactly one field is set.
type SecretRef struct {
	UUID  string `yaml:"uuid,omitempty"`
	Usage string `yaml:"usage,omitempty"`
}

// A VaultRef names a field of a secret in a KV version 2 engine.
type VaultRef struct {
	Mount string `yaml:"mount,omitempty"`
	Path  string `yaml:"path"`
	Field string `yaml:"field,omitempty"`
	// Version is that of the secret; 0 is the latest.
	Version int `yaml:"version,omitempty"`
	// Encoding is raw or base64.
	Encoding string `yaml:"encoding,omitempty"`
}

// A BarbicanRef names a secret of OpenStack's key manager.
type BarbicanRef struct {
	Secret string `yaml:"secret"`
	// Encoding is hex, Cinder's rule (the passphrase is the lowercase hex of the key's bytes), or raw.
	Encoding string `yaml:"encoding,omitempty"`
}

// Libvirt is where libvirt answers.
type Libvirt struct {
	// Socket is that of virtsecretd or libvirtd; empty means where one of them is by default.
	Socket string `yaml:"socket"`
	// URI is the secret driver to ask.
	URI string `yaml:"uri"`
}

// Vault is a HashiCorp Vault or OpenBao server. One of Token, TokenFile and AppRole is set.
type Vault struct {
	Address   string `yaml:"address"`
	Namespace string `yaml:"namespace"`
	CAFile    string `yaml:"ca_file"`
	Name      string `yaml:"tls_server_name"`
	// Token is where the token is, in any source but Vault itself.
	Token     *Key     `yaml:"token"`
	TokenFile string   `yaml:"token_file"`
	AppRole   *AppRole `yaml:"approle"`
	Timeout   Duration `yaml:"timeout"`
}

// AppRole is how a machine logs in to Vault.
type AppRole struct {
	Mount        string `yaml:"mount"`
	RoleID       string `yaml:"role_id"`
	SecretIDFile string `yaml:"secret_id_file"`
}

// Barbican is how to reach OpenStack's key manager. Exactly one of Username and ApplicationCredentialID is set.
type Barbican struct {
	AuthURL       string `yaml:"auth_url"`
	Username      string `yaml:"username"`
	UserDomain    string `yaml:"user_domain"`
	Project       string `yaml:"project"`
	ProjectDomain string `yaml:"project_domain"`
	// PasswordFile holds the user's password, or the application credential's secret.
	PasswordFile            string   `yaml:"password_file"`
	ApplicationCredentialID string   `yaml:"application_credential_id"`
	Region                  string   `yaml:"region"`
	Interface               string   `yaml:"interface"`
	CAFile                  string   `yaml:"ca_file"`
	Timeout                 Duration `yaml:"timeout"`
}

// Defaults of the file itself.
const (
	DefaultAdminSocket = "/run/luksgate/admin.sock"
	DefaultCloseAfter  = 30 * time.Second
	DefaultOpenTimeout = 60 * time.Second
	DefaultKeyTimeout  = 20 * time.Second
	DefaultUpgrade     = 20 * time.Second
	DefaultLibvirtURI  = "secret:///system"
	DefaultVaultMount  = "secret"
	DefaultVaultField  = "passphrase"
)

// MaxBytes bounds what is read of a configuration file.
const MaxBytes = 16 << 20
