// SPDX-License-Identifier: Apache-2.0

//go:build !noceph

package rbd

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"unsafe"
)

// Features are what the librbd at run time can do beyond what luksgate needs.
func Features() ([]Feature, error) {
	all := optionalFunctions
	present := make([]Feature, 0, len(all))
	for _, f := range all {
		name := C.CString(f.Function)
		f.Present = C.lg_has(name) != 0
		C.free(unsafe.Pointer(name))
		present = append(present, f)
	}
	return present, nil
}

// FSID is the identity of the cluster.
func (c *Cluster) FSID() (string, error) {
	fsid, err := c.conn.GetFSID()
	if err != nil {
		return "", fmt.Errorf("ceph: asking for the cluster's fsid: %w", err)
	}
	return fsid, nil
}

// Caps asks the monitors what a user ("client." is added) may do, by service. The error is EACCES for a user that may not
// ask.
func (c *Cluster) Caps(user string) (map[string]string, error) {
	entity := "client." + strings.TrimPrefix(user, "client.")
	cmd, err := json.Marshal(map[string]string{"prefix": "auth get", "entity": entity, "format": "json"})
	if err != nil {
		return nil, err
	}
	out, _, err := c.conn.MonCommand(cmd)
	if no := errno(err); no != 0 {
		return nil, fmt.Errorf("ceph: auth get %s: %w", entity, no)
	}
	if err != nil {
		return nil, fmt.Errorf("ceph: auth get %s: %w", entity, err)
	}
	return parseCaps(out, entity)
}

// parseCaps reads only the caps of an answer that has the key too, and wipes it.
func parseCaps(out []byte, entity string) (map[string]string, error) {
	defer clear(out)
	var all []struct {
		Entity string            `json:"entity"`
		Caps   map[string]string `json:"caps"`
	}
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("ceph: auth get %s: unexpected answer: %w", entity, syscall.EPROTO)
	}
	for _, e := range all {
		if e.Entity == entity {
			return e.Caps, nil
		}
	}
	return nil, fmt.Errorf("ceph: auth get %s: %w", entity, syscall.ENOENT)
}
