// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A blockdev is the value of qemu's -blockdev for an export: the nbd node itself, without a raw node above it, since
// the export is raw already.
type blockdev struct {
	Driver         string         `json:"driver"`
	NodeName       string         `json:"node-name"`
	Server         blockdevServer `json:"server"`
	Export         string         `json:"export,omitempty"`
	TLSCreds       string         `json:"tls-creds,omitempty"`
	TLSHostname    string         `json:"tls-hostname,omitempty"`
	ReconnectDelay uint           `json:"reconnect-delay,omitempty"`
	ReadOnly       bool           `json:"read-only"`
	Discard        string         `json:"discard"`
	DetectZeroes   string         `json:"detect-zeroes,omitempty"`
	Cache          blockdevCache  `json:"cache"`
}

type blockdevServer struct {
	Type string `json:"type"`
	Path string `json:"path,omitempty"`
	Host string `json:"host,omitempty"`
	Port string `json:"port,omitempty"`
}

type blockdevCache struct {
	Direct  bool `json:"direct"`
	NoFlush bool `json:"no-flush"`
}

// QemuBlockdev returns the arguments for a qemu that is started by hand: -object tls-creds-x509 where TLS is on,
// -blockdev with JSON, and -device. Limits (IOTune) need QemuDrive. A disk on scsi, sata or ide uses the controller that -device finds by itself.
func QemuBlockdev(opts DiskOptions) ([]string, error) {
	o, err := opts.normalize()
	if err == nil {
		err = o.checkQemu()
	}
	if err == nil && o.IOTune != (IOTune{}) {
		err = errors.New("--iotune: -blockdev has no limits without a throttle group; use -drive")
	}
	if err != nil {
		return nil, fmt.Errorf("attach: qemu disk %s: %w", describeTarget(opts.Target), err)
	}
	node := blockdev{
		Driver: "nbd", NodeName: o.nodeName(), Server: o.server(), Export: o.URI.Export,
		TLSHostname: o.TLSHostname, ReconnectDelay: o.ReconnectDelaySeconds,
		ReadOnly: o.ReadOnly, Discard: o.Discard, DetectZeroes: o.DetectZeroes,
		Cache: blockdevCache{Direct: o.Cache == "none" || o.Cache == "directsync", NoFlush: o.Cache == "unsafe"},
	}
	args := o.tlsObject()
	if o.URI.TLS {
		node.TLSCreds = o.tlsID()
	}
	text, err := marshalJSON(node)
	if err != nil {
		return nil, fmt.Errorf("attach: qemu disk %s: %w", o.Target, err)
	}
	return append(args, "-blockdev", text, "-device", o.device(true)), nil
}

// QemuDrive returns the same as QemuBlockdev in the older form: -drive with driver options, and -device.
func QemuDrive(opts DiskOptions) ([]string, error) {
	o, err := opts.normalize()
	if err == nil {
		err = o.checkQemu()
	}
	if err != nil {
		return nil, fmt.Errorf("attach: qemu drive %s: %w", describeTarget(opts.Target), err)
	}
	var d optionList
	server := o.server()
	d.add("if", "none")
	d.add("id", o.nodeName())
	d.add("format", "raw")
	d.add("file.driver", "nbd")
	d.add("file.server.type", server.Type)
	d.add("file.server.path", server.Path)
	d.add("file.server.host", server.Host)
	d.add("file.server.port", server.Port)
	d.add("file.export", o.URI.Export)
	if o.URI.TLS {
		d.add("file.tls-creds", o.tlsID())
		d.add("file.tls-hostname", o.TLSHostname)
	}
	if o.ReconnectDelaySeconds > 0 {
		d.add("file.reconnect-delay", strconv.FormatUint(uint64(o.ReconnectDelaySeconds), 10))
	}
	if o.ReadOnly {
		d.add("readonly", "on")
	}
	d.add("cache", o.Cache)
	d.add("discard", o.Discard)
	d.add("detect-zeroes", o.DetectZeroes)
	werror, rerror := o.errorActions()
	if o.ReadOnly {
		werror = "" // qemu refuses it where nothing can be written
	}
	d.add("werror", werror)
	d.add("rerror", rerror)
	for _, th := range o.IOTune.throttles() {
		d.addThrottle(th)
	}
	if o.IOTune.OpSizeBytes > 0 {
		d.add("throttling.iops-size", strconv.FormatUint(o.IOTune.OpSizeBytes, 10))
	}
	d.add("throttling.group", o.IOTune.Group)
	return append(o.tlsObject(), "-drive", d.String(), "-device", o.device(false)), nil
}

func (o *DiskOptions) checkQemu() error {
	if o.URI.TLS && (o.TLSDir == "" || !printable(o.TLSDir)) {
		return fmt.Errorf("--tls-dir %q: want the directory with ca-cert.pem and the client's certificate and key", o.TLSDir)
	}
	if o.Address != "" {
		return fmt.Errorf("--address: only for libvirt; give qemu's -device bus= and addr= yourself")
	}
	return nil
}

// nodeName is unique in a guest and short: qemu takes 31 bytes.
func (o *DiskOptions) nodeName() string { return "luksgate-" + o.Target }
func (o *DiskOptions) tlsID() string    { return "luksgate-tls-" + o.Target }

func (o *DiskOptions) server() blockdevServer {
	if o.URI.Socket != "" {
		return blockdevServer{Type: "unix", Path: o.URI.Socket}
	}
	port := o.URI.Port
	if port == 0 {
		port = DefaultPort
	}
	return blockdevServer{Type: "inet", Host: o.URI.Host, Port: strconv.Itoa(port)}
}

func (o *DiskOptions) tlsObject() []string {
	if !o.URI.TLS {
		return nil
	}
	var l optionList
	l.add("", "tls-creds-x509")
	l.add("id", o.tlsID())
	l.add("dir", o.TLSDir)
	l.add("endpoint", "client")
	l.add("verify-peer", "yes")
	return []string{"-object", l.String()}
}

// device returns the value of -device. With blockdev it also carries what -drive has of its own.
func (o *DiskOptions) device(withBlockdev bool) string {
	models := map[string]string{"virtio": "virtio-blk-pci", "scsi": "scsi-hd", "sata": "ide-hd", "ide": "ide-hd", "usb": "usb-storage"}
	model := models[o.Bus]
	if o.Device == "cdrom" && o.Bus != "usb" {
		model = strings.Replace(model, "-hd", "-cd", 1)
	}
	var l optionList
	l.add("", model)
	l.add("drive", o.nodeName())
	l.add("id", "disk-"+o.Target)
	l.add("serial", o.Serial)
	if o.WWN != "" {
		l.add("wwn", "0x"+o.WWN)
	}
	l.addUint("bootindex", o.BootOrder)
	l.addUint("logical_block_size", o.LogicalBlockBytes)
	l.addUint("physical_block_size", o.PhysicalBlockBytes)
	l.addUint("num-queues", o.Queues)
	if o.IOThread > 0 {
		l.add("iothread", "iothread"+strconv.FormatUint(uint64(o.IOThread), 10))
	}
	if o.Shareable {
		l.add("share-rw", "on")
	}
	if withBlockdev {
		if o.Cache == "writethrough" || o.Cache == "directsync" {
			l.add("write-cache", "off")
		} else {
			l.add("write-cache", "on")
		}
		werror, rerror := o.errorActions()
		if o.Device != "cdrom" && !o.ReadOnly {
			l.add("werror", werror)
		}
		l.add("rerror", rerror)
	}
	return l.String()
}

// errorActions translates libvirt's policies as its qemu driver does.
func (o *DiskOptions) errorActions() (werror, rerror string) {
	werror, rerror = o.ErrorPolicy, o.ReadErrorPolicy
	if rerror == "" && werror != "enospace" {
		rerror = werror
	}
	if werror == "enospace" {
		werror = "enospc"
	}
	return werror, rerror
}

// An optionList is a value of qemu's key=value syntax, in which a comma is written twice.
type optionList []string

func (l *optionList) add(key, value string) {
	if value == "" {
		return
	}
	value = strings.ReplaceAll(value, ",", ",,")
	if key != "" {
		value = key + "=" + value
	}
	*l = append(*l, value)
}

func (l *optionList) addUint(key string, n uint) {
	if n > 0 {
		l.add(key, strconv.FormatUint(uint64(n), 10))
	}
}

func (l *optionList) addThrottle(th throttle) {
	resource := map[string]string{"bytes": "bps", "iops": "iops"}[th.resource]
	name := "throttling." + resource + "-" + th.scope
	for _, v := range []struct {
		suffix string
		n      uint64
	}{{"", *th.rate}, {"-max", *th.max}, {"-max-length", *th.maxSeconds}} {
		if v.n > 0 {
			l.add(name+v.suffix, strconv.FormatUint(v.n, 10))
		}
	}
}

func (l optionList) String() string { return strings.Join(l, ",") }

func marshalJSON(v any) (string, error) {
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}

// ShellLine joins arguments to a line that a POSIX shell splits into the same arguments.
func ShellLine(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = shellQuote(arg)
	}
	return strings.Join(quoted, " ")
}

func shellQuote(s string) string {
	plain := s != ""
	for _, r := range s {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=./:,@%+", r) {
			plain = false
		}
	}
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
