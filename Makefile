# `make test` and `make demo` work in a fresh clone: they install what is missing.

GOLANGCI_LINT_VERSION := v2.15.0
GOVULNCHECK_VERSION   := v1.9.0

# The tarball from go.dev installs into /usr/local/go, which may be missing from
# the PATH of new shells. Tests and linters call go as well, so it is exported.
export PATH := $(PATH):/usr/local/go/bin
GO ?= $(shell PATH='$(PATH)'; command -v go || echo go)

# git refuses to read a clone that another user owns, such as a bind mount in a
# container, and go build fails with it unless -buildvcs is off.
ifeq ($(shell git rev-parse HEAD 2>/dev/null),)
export GOFLAGS := $(GOFLAGS) -buildvcs=false
endif

TOOLS         := $(CURDIR)/bin/tools
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)
GOVULNCHECK   := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: build ## Watch workers start, publish, crash and disappear, over NATS, ZMQ and the broker (DEMOFLAGS="--workers 5")
	@for transport in nats zmq broker; do \
		printf '\n== demo over %s ==\n' "$$transport"; \
		bin/dynplane demo --transport "$$transport" $(DEMOFLAGS) || exit; \
	done

# The tests on etcd and Kubernetes are modules of their own, because their servers
# are large dependencies. They spend their time waiting, hence -parallel.
SERVERS := integration/etcd integration/kube integration/dynamo integration/natsversions

# Tests beside the runtime of NVIDIA Dynamo install it first, which takes Python
# 3.10 or later and its wheels. `make test` runs a part of them where that can be
# had; `make interop` fails where it cannot. The whole deployments are separate,
# because their packages take 700 MB.
INTEROP_PART := TestExchange/1.6.1/(file|etcd)/(direct|NATS)

# $(call packages,MODULE) are those of PKG that belong to a nested module, or all.
packages = $(if $(PKG),$(patsubst ./$(1)%,.%,$(filter ./$(1) ./$(1)/%,$(PKG))),./...)
PACKAGES = $(if $(PKG),$(filter-out $(SERVERS:%=./%) $(SERVERS:%=./%/%),$(PKG)),./...)

# $(call gotest,MODULE,PACKAGES,FLAGS) does nothing without packages. It does not
# vet: go test would vet all dependencies again, which takes minutes with a cold
# cache. The targets test and lint vet once.
gotest = $(if $(strip $(2)),CGO_ENABLED=1 $(GO) -C $(1) test -vet=off $(3) $(2))
RACE   = -race -shuffle=on -timeout $(TIMEOUT) $(TESTFLAGS)
BENCH  = -run '^$$' -bench . -benchmem -timeout 0 $(BENCHFLAGS)

FUZZTIME ?= 10s

# The tests beside Dynamo take three minutes, and more on a busy machine.
TIMEOUT := 10m
interop interop-deployment: TIMEOUT := 30m

.PHONY: test
test: deps ## Run all tests, and build and vet without cgo (PKG="./discovery/..." TESTFLAGS="-run X -v")
	$(if $(PACKAGES),CGO_ENABLED=0 $(GO) build $(PACKAGES))
	$(if $(PACKAGES),CGO_ENABLED=0 $(GO) vet $(PACKAGES))
	$(call gotest,.,$(PACKAGES),$(RACE))
	$(call gotest,integration/etcd,$(call packages,integration/etcd),-parallel 6 $(RACE))
	$(call gotest,integration/kube,$(call packages,integration/kube),-parallel 6 -skip '^TestDynamo$$' $(RACE))
	@$(if $(call packages,integration/dynamo),if ! why=$$(integration/dynamo/venv 1.6.1 2>&1 >/dev/null); then \
		echo "test: skipped the tests beside Dynamo's runtime: $$(echo "$$why" | tail -n 1)"; \
	else $(call gotest,integration/dynamo,.,-parallel 6 -run '$(INTEROP_PART)' $(RACE)); fi)

.PHONY: interop
interop: deps ## Run all tests beside the real runtime of NVIDIA Dynamo, which they install (TESTFLAGS="-run X -v")
	$(call gotest,integration/dynamo,./...,-parallel 6 -skip '^TestDeployment$$' $(RACE))
	$(call gotest,integration/kube,./...,-run '^TestDynamo$$' $(RACE))

.PHONY: interop-deployment
interop-deployment: deps ## Run whole deployments of NVIDIA Dynamo on our broker, for which they install 700 MB
	$(call gotest,integration/dynamo,./...,-parallel 6 -run '^TestDeployment$$' $(RACE))

.PHONY: natsversions
natsversions: deps ## Run the tests of leases on released NATS servers, which they build once (TESTFLAGS="-run X -v")
	$(call gotest,integration/natsversions,./...,-parallel 12 $(RACE))

.PHONY: soak
soak: deps ## Test discovery and events under random faults for DURATION, 10m by default (SEED=7 repeats a plan, RUN=TestFaults/file)
	CGO_ENABLED=1 $(GO) test -vet=off -race -timeout 0 -count 1 -v ./integration/soak -run '$(or $(RUN),.)' \
		-args -duration $(or $(DURATION),10m) -seed $(or $(SEED),0) $(TESTFLAGS)

.PHONY: test-short
test-short: deps ## Run the tests of each package within a minute: no race detector, no tests of the whole system
	$(call gotest,.,$$($(GO) list ./... | grep -v /integration),-p 4 $(TESTFLAGS))

.PHONY: fuzz
fuzz: deps ## Run each fuzz target for FUZZTIME, 10s by default (PKG=./codec)
	@grep -rs '^func Fuzz' --include='*_test.go' $(or $(PKG:%/...=%),.) | sed 's|/[^/]*:func \(Fuzz[[:alnum:]_]*\).*| \1|' | \
	while read -r dir target; do \
		echo "== $$target in $$dir"; \
		CGO_ENABLED=1 $(GO) -C "$$dir" test -vet=off -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) . || exit; \
	done

.PHONY: bench
bench: deps ## Run all benchmarks (PKG=./codec BENCHFLAGS="-bench X -count 10")
	$(call gotest,.,$(PACKAGES),$(BENCH))
	$(call gotest,integration/etcd,$(call packages,integration/etcd),$(BENCH))
	$(call gotest,integration/kube,$(call packages,integration/kube),$(BENCH))

.PHONY: lint
lint: deps $(GOLANGCI_LINT) $(GOVULNCHECK) ## Check the prose, run the linters, and search for known vulnerabilities
	$(GO) run ./scripts/prose
	$(GOLANGCI_LINT) run --allow-parallel-runners ./...
	scripts/vulncheck $(GOVULNCHECK)

# Not part of lint: with a cold cache, compiling these servers takes minutes.
.PHONY: lint-servers
lint-servers: deps $(GOLANGCI_LINT) ## Run the linters on the modules of tests on other servers
	cd integration/etcd && $(GOLANGCI_LINT) run --allow-parallel-runners ./...
	cd integration/kube && $(GOLANGCI_LINT) run --allow-parallel-runners ./...
	cd integration/dynamo && $(GOLANGCI_LINT) run --allow-parallel-runners ./...
	cd integration/natsversions && $(GOLANGCI_LINT) run --allow-parallel-runners ./...

.PHONY: build
build: deps ## Build bin/dynplane and bin/zmq-broker
	CGO_ENABLED=1 $(GO) build -o bin/ ./cmd/dynplane ./cmd/zmq-broker

.PHONY: deps
deps: ## Check Go and the C compiler, and install libzmq if it is missing
	@GO='$(GO)' scripts/deps

# Building golangci-lint takes a while, so each version is kept.
$(GOLANGCI_LINT): URL := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
$(GOVULNCHECK):   URL := golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
$(GOLANGCI_LINT) $(GOVULNCHECK):
	GOBIN='$(TOOLS)' $(GO) install $(URL)
	mv '$(TOOLS)/$(patsubst %-$(lastword $(subst -, ,$@)),%,$(notdir $@))' '$@'
