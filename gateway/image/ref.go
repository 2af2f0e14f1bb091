// SPDX-License-Identifier: Apache-2.0

// Package image names the places where images live and the ways in which opening one fails. The places themselves are
// the sub-packages rbd, file and mem.
package image

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Ways in which an image cannot be had, besides being no LUKS image. The command line has an exit code for each.
var (
	// ErrUnreachable: the cluster, pool, image, snapshot or file is not there or does not answer.
	ErrUnreachable = errors.New("cannot be reached")
	// ErrBusy: somebody else holds the image.
	ErrBusy = errors.New("in use")
	// ErrRef: the reference itself is wrong.
	ErrRef = errors.New("not an image reference")
)

// Scheme is the kind of place.
type Scheme string

// The places an image can live in.
const (
	RBD  Scheme = "rbd"
	File Scheme = "file"
	Mem  Scheme = "mem"
)

// A Ref names one image: rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT], file:PATH or mem:SIZE.
type Ref struct {
	Scheme Scheme
	// Of an RBD image.
	Pool, Namespace, Image, Snapshot string
	// Of a file.
	Path string
	// Of memory.
	SizeBytes int64
}

// String is the reference in the form in which ParseRef takes it.
func (r Ref) String() string {
	switch r.Scheme {
	case RBD:
		s := "rbd:" + r.Pool + "/"
		if r.Namespace != "" {
			s += r.Namespace + "/"
		}
		s += r.Image
		if r.Snapshot != "" {
			s += "@" + r.Snapshot
		}
		return s
	case File:
		return "file:" + r.Path
	default:
		return "mem:" + strconv.FormatInt(r.SizeBytes, 10)
	}
}

// BaseName is the last part of the reference: a name for the export where the user gives none.
func (r Ref) BaseName() string {
	switch r.Scheme {
	case RBD:
		return r.Image
	case File:
		return r.Path[strings.LastIndexByte(r.Path, '/')+1:]
	default:
		return string(Mem)
	}
}

// ParseRef reads a reference. Its error wraps ErrRef.
func ParseRef(s string) (Ref, error) {
	scheme, rest, found := strings.Cut(s, ":")
	if !found {
		return Ref{}, refError(s, "expected rbd:POOL/IMAGE, file:PATH or mem:SIZE")
	}
	switch Scheme(scheme) {
	case RBD:
		return parseRBD(s, rest)
	case File:
		if rest == "" {
			return Ref{}, refError(s, "expected a path after file:")
		}
		return Ref{Scheme: File, Path: rest}, nil
	case Mem:
		size, err := ParseSize(rest)
		if err != nil {
			return Ref{}, refError(s, err.Error())
		}
		return Ref{Scheme: Mem, SizeBytes: size}, nil
	}
	return Ref{}, refError(s, fmt.Sprintf("%q is none of rbd, file, mem", scheme))
}

func parseRBD(s, rest string) (Ref, error) {
	const form = "expected rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT]"
	r := Ref{Scheme: RBD}
	path, snap, hasSnap := strings.Cut(rest, "@")
	if hasSnap && (snap == "" || strings.ContainsAny(snap, "/@")) {
		return Ref{}, refError(s, form+", the snapshot's name is missing or has a / or @ in it")
	}
	r.Snapshot = snap
	parts := strings.Split(path, "/")
	switch len(parts) {
	case 2:
		r.Pool, r.Image = parts[0], parts[1]
	case 3:
		r.Pool, r.Namespace, r.Image = parts[0], parts[1], parts[2]
		if r.Namespace == "" {
			return Ref{}, refError(s, form+", the namespace is empty")
		}
	default:
		return Ref{}, refError(s, form)
	}
	if r.Pool == "" || r.Image == "" {
		return Ref{}, refError(s, form+", the pool or the image is empty")
	}
	if strings.ContainsRune(s, 0) {
		return Ref{}, refError(s, "there is a NUL byte in it")
	}
	return r, nil
}

func refError(s, why string) error { return fmt.Errorf("%q: %w: %s", s, ErrRef, why) }

// ParseSize reads a number of bytes with an optional suffix K, M, G, T or P (powers of 1024; a following "iB" or "B" is
// allowed), as rbd and qemu do.
func ParseSize(s string) (int64, error) {
	number := strings.TrimRight(s, "BbIiKkMmGgTtPp")
	suffix := strings.ToLower(s[len(number):])
	suffix = strings.TrimSuffix(strings.TrimSuffix(suffix, "b"), "i")
	shift := uint(0)
	if suffix != "" {
		i := strings.Index("kmgtp", suffix)
		if len(suffix) != 1 || i < 0 {
			return 0, fmt.Errorf("size %q: expected a number with K, M, G, T or P", s)
		}
		shift = uint(i+1) * 10
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("size %q: expected a whole number of bytes with an optional K, M, G, T or P", s)
	}
	if n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("size %q is larger than 8 EiB", s)
	}
	return n << shift, nil
}
