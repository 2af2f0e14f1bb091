// SPDX-License-Identifier: Apache-2.0

// Package docs holds the documents. The manual pages are rendered from Markdown and checked in, so that an installation
// needs no renderer; `make generate` renders them anew.
package docs

//go:generate go run github.com/cpuguy83/go-md2man/v2@v2.0.7 -in luksgate.1.md -out luksgate.1
//go:generate go run github.com/cpuguy83/go-md2man/v2@v2.0.7 -in luksgate.conf.5.md -out luksgate.conf.5
