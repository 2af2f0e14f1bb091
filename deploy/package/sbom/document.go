// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"io"
	"time"
)

// The part of CycloneDX 1.5 that is used here (https://cyclonedx.org/docs/1.5/json/).
type document struct {
	BOMFormat    string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	SerialNumber string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Licenses   []license  `json:"licenses,omitempty"`
	PURL       string     `json:"purl"`
	Properties []property `json:"properties,omitempty"`
}

type license struct {
	License struct {
		ID string `json:"id"`
	} `json:"license"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

func newComponent(kind, name, version, purl string) component {
	return component{Type: kind, Ref: purl, Name: name, Version: version, PURL: purl}
}

// newDocument describes a package that has a program and the parts.
func newDocument(name, version string, at time.Time, info *buildinfo.BuildInfo, parts []component) *document {
	self := newComponent("application", name, version, "pkg:deb/luksgate/"+name+"@"+purlVersion(version)+"?arch=amd64")
	apache := license{}
	apache.License.ID = "Apache-2.0"
	self.Licenses = []license{apache}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" || s.Key == "vcs.time" {
			self.Properties = append(self.Properties, property{s.Key, s.Value})
		}
	}
	all := dependency{Ref: self.Ref}
	hash := sha256.New()
	for _, p := range append([]component{self}, parts...) {
		_, _ = io.WriteString(hash, p.Ref+"\n")
	}
	for _, p := range parts {
		all.DependsOn = append(all.DependsOn, p.Ref)
	}
	return &document{
		BOMFormat: "CycloneDX", SpecVersion: "1.5", SerialNumber: serial(hash.Sum(nil)), Version: 1,
		Metadata:   metadata{Timestamp: at.UTC().Format(time.RFC3339), Component: self},
		Components: parts, Dependencies: []dependency{all},
	}
}

// serial makes a UUID of version 8 (RFC 9562: custom) out of a hash, so that the same content has the same.
func serial(sum []byte) string {
	b := sum[:16]
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b)
	return fmt.Sprintf("urn:uuid:%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:])
}
