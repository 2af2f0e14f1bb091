# SPDX-License-Identifier: Apache-2.0
#
# "make" prints what there is.  A target's text after ## is its help line.

MODULE  := github.com/luksgate/luksgate
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PREFIX  ?= /usr/local
DESTDIR ?=
# of "make soak" and "make fuzz", there per target, and at most for all together (then each gets less)
TIME    ?= 60s
TOTAL   ?=
# of "make fuzz": the targets whose package and name match, for example 'nbdserver Fuzz'; of "make test-long": what go test -run
# takes, for example '^TestSoak\b'
ONLY    ?=
# of "make demo": ceph, or file (without Ceph)
DEMO    ?= ceph
# of the benchmarks, for example "-rounds 9"; of luksgate bench, for example "--full"
BENCH_FLAGS ?=
LAYERS_FLAGS ?=

LINT_VERSION := v2.15.0
VULN_VERSION := v1.9.0

# Looked up when a recipe runs, after what it depends on has installed them.
GO      = $(or $(shell deploy/find-go),$(error no Go: see above))
# The Go command with the build tags for the librbd that is installed.
GO_CEPH = GOFLAGS="$$(deploy/ceph-tags)" $(GO)
GO_PURE = CGO_ENABLED=0 $(GO)
BUILD   = build -trimpath -ldflags '-X $(MODULE)/gateway/cli.Version=$(VERSION)'

# Other people's test vectors, which are not part of the repository, where they stand beside it.
ifneq ($(wildcard ../shared/vectors),)
export LUKSGATE_VECTORS ?= $(abspath ../shared/vectors)
endif

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

# ---- building

.PHONY: build
build: ## bin/luksgate with Ceph (needs: deploy/install-deps go build)
	$(GO_CEPH) $(BUILD) -o bin/luksgate .

.PHONY: build-noceph
build-noceph: ## bin/luksgate-noceph: file and memory images only, no C at all
	$(GO_PURE) $(BUILD) -tags noceph -o bin/luksgate-noceph .

.PHONY: generate
generate: ## make what is generated and committed once more (kernels, man pages)
	$(GO_PURE) generate ./...

.PHONY: install
install: build ## put the program, man pages and completions below $(DESTDIR)$(PREFIX)
	install -D -m 755 bin/luksgate $(DESTDIR)$(PREFIX)/bin/luksgate
	for page in docs/*.[1-8]; do install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/}; done
	mkdir -p $(addprefix $(DESTDIR)$(PREFIX)/share/,bash-completion/completions zsh/site-functions fish/vendor_completions.d)
	bin/luksgate completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/luksgate
	bin/luksgate completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_luksgate
	bin/luksgate completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/luksgate.fish

.PHONY: dist
dist: ## dist/: packages of the last commit for Debian 11+, Ubuntu 20.04+, with and without a librbd of their own (root)
	@deploy/install-deps go build dist
	@deploy/package/build

.PHONY: clean
clean: ## remove what was built
	rm -rf bin build dist

# ---- proving

.PHONY: deps
deps:
	@deploy/install-deps go build test ceph libvirt arm64
	@deploy/guest/guest make

.PHONY: test
test: deps ## install what the tests need, start a Ceph cluster for them, run all of them
	@$(MAKE) test-noceph test-purego test-arm64
	$(GO_CEPH) vet ./...
	@LUKSGATE_TEST_REQUIRE=1 GOFLAGS="$$(deploy/ceph-tags)" \
	  deploy/devcluster/with-cluster --size 8G -- $(GO) test -race -timeout 40m ./...

.PHONY: test-long
test-long: deps ## the tests that take minutes each: guests that migrate, clones, Ceph 18 in a chroot (root makes it); ONLY
	@deploy/install-deps chroot
	@deploy/test-long "$(GO)" "$(ONLY)"

# of "make soak": what a failed run printed tries the same again
SEED    ?=

.PHONY: soak
soak: deps ## write clones of every kind in every way for TIME, on Ceph 16 and 18, kill -9 included; SEED repeats a run
	deploy/chroot/chroot make trixie libvirt0
	@LUKSGATE_SOAK_TIME="$(TIME)" LUKSGATE_SOAK_SEED="$(SEED)" LUKSGATE_TEST_REQUIRE=1 GOFLAGS="$$(deploy/ceph-tags)" \
	  deploy/devcluster/with-cluster --store bluestore --size 8G -- $(GO) test -timeout 0 -run '^TestSoakForTime$$' -v ./gateway/cli

.PHONY: test-noceph
test-noceph: ## the tests of what differs in a build without Ceph
	$(GO_PURE) build -tags noceph ./...
	$(GO_PURE) vet -tags noceph . ./gateway/...
	$(GO_PURE) test -tags noceph . ./gateway/...

.PHONY: test-purego
test-purego: ## the tests of the cipher and what stands on it without assembly
	$(GO_PURE) test -tags noceph,purego ./crypt/xts/... ./crypt/workers/... ./crypt/volume/...

# What an emulator cannot show: these tests start themselves once more, or ask the kernel about their own memory.
NOT_EMULATED := ^(TestKernelAgrees|TestInChildProcess|TestEnvironmentChoosesKernel)$$

.PHONY: test-arm64
test-arm64: ## the tests of what has assembly, unsafe or byte order in it as an arm64 program, emulated
	GOARCH=arm64 $(GO_PURE) build -tags noceph ./...
	GOARCH=arm64 $(GO_PURE) test -tags noceph -short -exec "$$(command -v qemu-aarch64-static)" \
	  -skip '$(NOT_EMULATED)' ./crypt/xts/... ./crypt/workers/... ./crypt/volume/... ./crypt/secret/... \
	  ./crypt/luks/luks1 ./crypt/luks/luks2 ./nbdserver/wire/... ./nbdserver/buffer/...

.PHONY: test-dist
test-dist: dist ## build the packages twice, install, use, upgrade and purge them on booted systems of Debian 11 (root, long)
	@deploy/install-deps test ceph
	deploy/chroot/chroot make bullseye.machine systemd systemd-sysv dbus librbd1 qemu-utils qemu-block-extra apparmor python3 python3-apt zstd
	deploy/chroot/chroot make bullseye.new systemd systemd-sysv dbus
	@LUKSGATE_TEST_LONG=1 LUKSGATE_TEST_REQUIRE=1 GOFLAGS="$$(deploy/ceph-tags)" deploy/devcluster/with-cluster --size 8G -- \
	  $(GO) test -count=1 -timeout 40m -v ./deploy ./deploy/package ./deploy/ansible ./deploy/container

.PHONY: vulncheck
vulncheck: ## look for known vulnerabilities in what the program calls (needs the vulnerability database)
	@deploy/install-deps go build
	@deploy/vulncheck "$(GO)" "$(VULN_VERSION)"

.PHONY: check
check: ## gofmt, vet, golangci-lint, shellcheck; generated files are up to date
	@deploy/install-deps go build check
	@deploy/check "$(GO)" "$(LINT_VERSION)"

.PHONY: fuzz
fuzz: ## run every fuzz target for TIME (60s), all within TOTAL if given; ONLY='nbdserver Fuzz' for some
	@deploy/install-deps go build
	@deploy/fuzz "$(GO)" "$(TIME)" "$(TOTAL)" "$(ONLY)"

# ---- measuring

.PHONY: bench
bench: bench-crypto bench-nbd bench-rbd bench-storm bench-scale bench-upgrade bench-layers bench-latency bench-guest ## all of the benchmarks below

.PHONY: bench-crypto
bench-crypto: ## the cipher's kernels beside OpenSSL, the worker pool; BENCH_FLAGS=-help says more
	@deploy/install-deps go bench
	$(GO_PURE) run -tags noceph ./bench/crypto $(BENCH_FLAGS)

.PHONY: bench-nbd
bench-nbd: ## the NBD server beside nbdkit and qemu-nbd, on memory; BENCH_FLAGS=-help says more
	@deploy/install-deps go bench
	$(GO_PURE) run -tags noceph ./bench/nbd $(BENCH_FLAGS)

.PHONY: bench-rbd
bench-rbd: ## the gateway beside fio, qemu-nbd and librbd's own engine, on a Ceph cluster; BENCH_FLAGS=-help says more
	@deploy/install-deps go build ceph bench
	@GOFLAGS="$$(deploy/ceph-tags)" deploy/devcluster/with-cluster --size 8G -- \
	  $(GO) run ./bench/rbd $(BENCH_FLAGS)

.PHONY: bench-storm
bench-storm: build ## 20 clones of one image exported at once: time and memory; BENCH_FLAGS=-help says more
	@deploy/install-deps ceph
	@GOFLAGS="$$(deploy/ceph-tags)" deploy/devcluster/with-cluster --size 8G -- \
	  $(GO) run ./bench/storm $(BENCH_FLAGS)

.PHONY: bench-scale
bench-scale: build ## 500 exports with 4 idle clients each, of files and of RBD images: what they cost; BENCH_FLAGS=-help says more
	$(GO_CEPH) run ./bench/scale $(BENCH_FLAGS)
	@deploy/install-deps ceph
	@GOFLAGS="$$(deploy/ceph-tags)" deploy/devcluster/with-cluster --size 8G -- \
	  $(GO) run ./bench/scale -image rbd:rbd/scale $(BENCH_FLAGS)

.PHONY: bench-upgrade
bench-upgrade: build ## the longest gap that clients see at "luksgate upgrade"; BENCH_FLAGS=-help says more
	@deploy/install-deps ceph
	@GOFLAGS="$$(deploy/ceph-tags)" deploy/devcluster/with-cluster --size 8G -- \
	  $(GO) run ./bench/upgrade $(BENCH_FLAGS)

# gonbdserver is a peer of the layers where it is found; see bench/peers.
.PHONY: bench-layers
bench-layers: build ## "luksgate bench" of memory, a file (LUKS1) and a Ceph cluster, with all peers, into build/bench; LAYERS_FLAGS
	@deploy/install-deps go build ceph bench
	@mkdir -p build/bench
	$(GO_PURE) build -o build/bench/gonbdserver ./bench/nbd/gonbdserver
	PATH="$$PATH:$(CURDIR)/build/bench" bin/luksgate bench mem:256M --peers all \
	  --json build/bench/mem.json --html build/bench/mem.html $(LAYERS_FLAGS)
	bin/luksgate bench file:build/bench/image --size 128M --luks 1 --peers all \
	  --json build/bench/file.json --html build/bench/file.html $(LAYERS_FLAGS)
	deploy/devcluster/with-cluster --size 8G -- bin/luksgate bench rbd:rbd/bench --against librbd --peers all \
	  --json build/bench/rbd.json --html build/bench/rbd.html $(LAYERS_FLAGS)

.PHONY: bench-latency
bench-latency: ## what a network's latency costs, and what depth and connections help (root); BENCH_FLAGS=-help says more
	@deploy/install-deps go bench
	@mkdir -p build/bench
	$(GO_PURE) run ./bench/latency -svg build/bench/latency.svg $(BENCH_FLAGS)

.PHONY: bench-guest
bench-guest: build ## luksgate beside rbd-nbd and dm-crypt, by instructions, in an emulated guest; BENCH_FLAGS=-help says more
	@deploy/install-deps go build ceph bench libvirt
	@deploy/guest/guest make
	@GOFLAGS="$$(deploy/ceph-tags)" deploy/devcluster/with-cluster --size 8G -- \
	  $(GO) run ./bench/guest $(BENCH_FLAGS)

# ---- showing

.PHONY: demo
demo: ## see it work: a Ceph cluster, an encrypted image, an export, qemu; DEMO=file without Ceph
	@deploy/demo/demo $(DEMO)
