# Everything a developer or CI needs. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
KELES := target/release/keles
DATA ?= /var/lib/keles
HELLO := target/static/x86_64-unknown-linux-gnu/release/hello
DEBIAN := mold busybox-static nftables iproute2 util-linux curl python3 python3-yaml python3-venv ca-certificates gcc openssl
# What tests and figures are compared with. Asked for by command (COMMAND or COMMAND:PACKAGE): other packages bring them too, which Debian's would push out.
PEERS := runc crun containerd iptables etcd:etcd-server etcdctl:etcd-client valgrind
# Networks of pods in a containerd of the tests (iptables is its portmap's); no commands, so looked for by file.
CNI := containernetworking-plugins
CNI_PLUGIN := /usr/lib/cni/bridge

.PHONY: help deps build up down test unit e2e bench fmt hello-image

help: ## list what there is
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

deps: debian peers target/clients/python/complete target/clients/javascript/complete ## install missing Debian packages and the clients that tests run

# Without an index or a registry the tests of these clients say that they are skipped, which CI makes a failure.
target/clients/python/complete: e2e/clients/python/requirements.txt | debian
	@rm -rf $(@D) && mkdir -p $(@D) && { python3 -m venv $(@D) && $(@D)/bin/pip install -q --disable-pip-version-check -r $< && touch $@; } || echo "the Python client could not be installed"

target/clients/javascript/complete: e2e/clients/javascript/package-lock.json | debian
	@rm -rf $(@D) && mkdir -p $(@D) && cp $(<D)/package.json $< $(@D) && { npm ci --prefix $(@D) --silent --no-audit --no-fund && touch $@; } || echo "the JavaScript client could not be installed"

.PHONY: debian
debian:
	@missing=""; command -v npm >/dev/null || missing=" nodejs npm"; \
	for p in $(DEBIAN); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'install ok' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

# Without them the tests say that they are skipped, which CI makes a failure. Their services are not to be started: a policy forbids it meanwhile.
.PHONY: peers
peers: debian
	@missing=""; for p in $(PEERS); do command -v $${p%%:*} >/dev/null || missing="$$missing $${p##*:}"; done; \
	test -e $(CNI_PLUGIN) || missing="$$missing $(CNI)"; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; \
	rc=/usr/sbin/policy-rc.d; if [ ! -e $$rc ]; then printf '#!/bin/sh\nexit 101\n' >$$rc; chmod +x $$rc; trap "rm -f $$rc" EXIT; fi; \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove $$missing >/dev/null; } || echo "could not be installed:$$missing"; fi

build: debian ## build the release binary
	$(CARGO) build --release --locked -p keles-keles

hello-image: debian ## build the example application and pack it as an image
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked -q -p hello --target x86_64-unknown-linux-gnu --target-dir target/static
	$(CARGO) run -q --locked -p keles-testkit --bin mkimage -- keles/hello:v1 target/hello.tar --add $(HELLO):/hello --expose 8000 --cmd /hello

up: build hello-image ## start a one-node cluster, deploy examples/hello, print where it is
	@examples/up.sh "$(KELES)" "$(DATA)"

down: ## stop the cluster of `make up` and its containers
	@examples/down.sh "$(KELES)" "$(DATA)"

test: deps ## everything: unit tests, laws, store suite, e2e with real containers
	$(MAKE) --no-print-directory unit e2e

unit: deps ## all tests but e2e
	$(CARGO) test --locked --no-fail-fast --workspace

# The whole workspace, so that nothing is compiled twice with other features; `command_line` builds the binary that e2e runs (KELES names another).
e2e: deps ## e2e alone
	$(CARGO) test --locked --no-fail-fast --workspace --test command_line --test e2e -- --test-threads=1

bench: build peers ## the figures that the README quotes
	$(CARGO) run --release --locked -q -p keles-bench -- $(KELES)

fmt: ## format everything
	$(CARGO) fmt --all

FUZZ_SECONDS ?= 60
# Rust code without `unsafe`: the laws matter, not the sanitizer, which would halve the speed.
FUZZ := $(CARGO) +nightly fuzz

.PHONY: fuzz
fuzz: ## look for bytes that break a law of fuzz/, FUZZ_SECONDS a target (60); TARGETS names some
	@command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	@cp Cargo.lock fuzz/Cargo.lock
	$(FUZZ) build --sanitizer none
	@for t in $(or $(TARGETS),$$($(FUZZ) list)); do echo "== $$t"; mkdir -p fuzz/found/$$t; \
		$(FUZZ) run --sanitizer none $$t fuzz/found/$$t fuzz/corpus/$$t -- -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=2048 -max_len=4096 -verbosity=0; done
