# Everything a clone needs: `make test` and `make demo` install what is missing.

GOLANGCI_LINT_VERSION := v2.15.0
GOVULNCHECK_VERSION   := v1.9.0

# The tarball from go.dev lands in /usr/local/go, which new shells may not have
# on their PATH. The tests and linters call go themselves, so PATH needs it too.
export PATH := $(PATH):/usr/local/go/bin
GO ?= $(shell PATH='$(PATH)'; command -v go || echo go)

# git refuses to read a clone that another user owns (a bind mount in a
# container), and go build fails with it unless told not to ask.
ifeq ($(shell git rev-parse HEAD 2>/dev/null),)
export GOFLAGS := $(GOFLAGS) -buildvcs=false
endif

TOOLS         := $(CURDIR)/bin/tools
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)
GOVULNCHECK   := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: build ## Watch workers come, publish, die and disappear, over NATS, ZMQ and the broker (DEMOFLAGS="--workers 5")
	@for transport in nats zmq broker; do \
		printf '\n== demo over %s ==\n' "$$transport"; \
		bin/dynplane demo --transport "$$transport" $(DEMOFLAGS) || exit; \
	done

# -race needs cgo. What cgo is not there for must build without it, too. Vet runs
# once, here and in lint: go test would run it again on all dependencies, which
# with a cold cache takes minutes.
# The tests on etcd and Kubernetes are modules of their own, since their servers
# are large, and wait more than they work.
GOTEST = CGO_ENABLED=1 $(GO) -C $(1) test -race -shuffle=on -vet=off -timeout 10m $(2) $(TESTFLAGS) ./...

.PHONY: test
test: deps ## Run all tests, and build without cgo (TESTFLAGS="-run X -v")
	CGO_ENABLED=0 $(GO) build ./...
	CGO_ENABLED=0 $(GO) vet ./...
	$(call GOTEST,.)
	$(call GOTEST,integration/etcd,-parallel 6)
	$(call GOTEST,integration/kube,-parallel 6)

.PHONY: lint
lint: deps $(GOLANGCI_LINT) $(GOVULNCHECK) ## Run the linters, and look for known vulnerabilities
	$(GO) run ./scripts/prose
	$(GOLANGCI_LINT) run ./...
	scripts/vulncheck $(GOVULNCHECK)

# Not in lint: with a cold cache the servers of these modules take minutes.
.PHONY: lint-servers
lint-servers: deps $(GOLANGCI_LINT) ## Run the linters on the tests with servers of etcd and Kubernetes
	cd integration/etcd && $(GOLANGCI_LINT) run ./...
	cd integration/kube && $(GOLANGCI_LINT) run ./...

.PHONY: build
build: deps ## Build bin/dynplane and bin/zmq-broker
	CGO_ENABLED=1 $(GO) build -o bin/ ./cmd/dynplane ./cmd/zmq-broker

.PHONY: deps
deps: ## Check Go and the C compiler, install libzmq when it is missing
	@GO='$(GO)' scripts/deps

# Linking golangci-lint takes a while: each version is built once.
$(GOLANGCI_LINT): URL := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
$(GOVULNCHECK):   URL := golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
$(GOLANGCI_LINT) $(GOVULNCHECK):
	GOBIN='$(TOOLS)' $(GO) install $(URL)
	mv '$(TOOLS)/$(patsubst %-$(lastword $(subst -, ,$@)),%,$(notdir $@))' '$@'
