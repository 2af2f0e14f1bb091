// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/tls"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/luksgate/luksgate/gateway/access"
	"github.com/luksgate/luksgate/gateway/config"
	"github.com/luksgate/luksgate/gateway/daemon"
	"github.com/luksgate/luksgate/nbdserver"
)

// tlsFlags say how the server proves who it is, and whether clients must.
type tlsFlags struct {
	mode  string
	files nbdserver.TLSFiles
}

// Modes of --tls. Without the flag a certificate means required.
const (
	tlsOff      = "off"
	tlsOptional = "optional"
	tlsRequired = "required"
)

func (f *tlsFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.mode, "tls", "", "off, optional or required (default: required with --tls-cert, else off)")
	fs.StringVar(&f.files.Certificate, "tls-cert", "", "PEM file with the server's certificate, looked at anew for each client")
	fs.StringVar(&f.files.Key, "tls-key", "", "PEM file with the key of --tls-cert")
	fs.StringVar(&f.files.ClientCA, "tls-ca", "", "PEM file with the CA of clients, which must show a certificate then")
}

// check fills in the mode.
func (f *tlsFlags) check() error {
	given := f.files != nbdserver.TLSFiles{}
	switch {
	case f.mode == "" && given:
		f.mode = tlsRequired
	case f.mode == "":
		f.mode = tlsOff
	case f.mode == tlsOff && given:
		return usage("--tls off: leave out --tls-cert, --tls-key and --tls-ca")
	case f.mode != tlsOff && f.mode != tlsOptional && f.mode != tlsRequired:
		return usage("--tls %q: expected off, optional or required", f.mode)
	}
	if f.mode != tlsOff && (f.files.Certificate == "" || f.files.Key == "") {
		return usage("TLS needs both --tls-cert and --tls-key")
	}
	return nil
}

// options are nil without TLS.
func (f *tlsFlags) options(log *slog.Logger) (*nbdserver.TLSOptions, error) {
	if f.mode == tlsOff {
		return nil, nil
	}
	certificates, err := nbdserver.LoadCertificates(f.files, log)
	if err != nil {
		return nil, err
	}
	config := func() (*tls.Config, error) { return certificates.Config() }
	return &nbdserver.TLSOptions{Required: f.mode == tlsRequired, Config: config}, nil
}

// allowFlags say who may have the export.
type allowFlags struct{ rules access.Rules }

func (f *allowFlags) add(fs *pflag.FlagSet) {
	fs.StringSliceVar(&f.rules.Users, "allow-user", nil, "user, by name or number, whose processes may open the export over a unix socket")
	fs.StringSliceVar(&f.rules.Groups, "allow-group", nil, "the same for a group")
	fs.StringSliceVar(&f.rules.Certificates, "allow-certificate", nil,
		"name in a client's certificate (common name or DNS name, *.DOMAIN for any one label) that may open the export")
}

// policy looks the names up. It is nil without a flag.
func (f *allowFlags) policy(clientCA string) (*access.Policy, error) {
	if len(f.rules.Certificates) > 0 && clientCA == "" {
		return nil, usage("--allow-certificate needs --tls-ca: without it no client shows a certificate")
	}
	p, err := access.NewPolicy(f.rules)
	if err != nil {
		return nil, usage("who is allowed: %v", err)
	}
	return p, nil
}

// limitFlags are the limits of luksgate.conf, with its names.
type limitFlags struct{ limits config.Limits }

func (f *limitFlags) add(fs *pflag.FlagSet) {
	l := &f.limits
	*l = config.Limits{
		Connections: nbdserver.DefaultConnections, ConnectionsPerExport: nbdserver.DefaultConnectionsPerExport,
		HandshakeOptions: nbdserver.DefaultHandshakeOptions, OptionSize: nbdserver.DefaultOptionBytes,
		Handshake: config.Duration(nbdserver.DefaultHandshake), Stall: config.Duration(nbdserver.DefaultStall),
		RequestSize: nbdserver.DefaultRequestBytes, InFlight: nbdserver.DefaultInFlight,
		InFlightSize: nbdserver.DefaultInFlightBytes, Buffers: nbdserver.DefaultBufferBytes,
	}
	fs.IntVar(&l.Connections, "connections", l.Connections, "most connections, those that negotiate included")
	fs.IntVar(&l.ConnectionsPerExport, "connections-per-export", l.ConnectionsPerExport, "most connections that use the export")
	fs.Var(&l.Handshake, "handshake", "how long a client may negotiate, TLS included")
	fs.IntVar(&l.HandshakeOptions, "handshake-options", l.HandshakeOptions, "most options of a negotiation")
	fs.Var(&l.OptionSize, "option-size", "most bytes of one option")
	fs.Var(&l.Stall, "stall", "how long a client may stop in the middle of a request, or not take replies")
	fs.Var(&l.Idle, "idle", "how long a client may ask for nothing; 0s is for ever")
	fs.Var(&l.Poll, "poll", "how long a connection may look for the next request before it sleeps; 0s is not at all")
	fs.Var(&l.RequestSize, "request-size", "most bytes of one read or write")
	fs.IntVar(&l.InFlight, "in-flight", l.InFlight, "most requests of a connection that are not answered yet")
	fs.Var(&l.InFlightSize, "in-flight-size", "most bytes of these")
	fs.Var(&l.Buffers, "buffers", "most bytes of all clients' requests; beyond it clients wait")
}

func (f *limitFlags) server() (nbdserver.Limits, error) {
	var err error
	f.limits.OutOfRange(func(key string, value, most int64) {
		if err == nil {
			err = usage("--%s %d: expected 0 (the default) to %d", strings.ReplaceAll(key, "_", "-"), value, most)
		}
	})
	if p := f.limits.Poll; err == nil && time.Duration(p) > config.MaxPoll {
		err = usage("--poll %v: expected 0s (not at all) to %v", p, config.MaxPoll)
	}
	return daemon.ServerLimits(f.limits), err
}
