# Targets: build, test, e2e, lint, check, demo, bench. `make check` is all of them but demo and bench.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

# One setting for every build shares one build cache; binaries are static, so they run in empty images.
export CGO_ENABLED := 0
BIN := $(CURDIR)/bin
GO_BUILD := go build -ldflags="-s -w"
LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# Packages whose concurrency is worth the race detector's price; `make check` runs the others without it.
RACE := ./internal/run/... ./internal/vault/... ./internal/driver/...
PLAIN = $$(comm -23 <(go list ./... | sort) <(go list $(RACE) | sort))

.PHONY: build build-core test plain race e2e lint check setup demo bench clean

build: build-core ## bin/: lifeboat, and the lab (real Kubernetes: minutes when the build cache is cold)
	@[ -x $(BIN)/lab-kube ] || echo "building the lab's Kubernetes from its sources: about 10 minutes on two cores the first time"
	cd lab && $(GO_BUILD) -o $(BIN)/ ./cmd/...

build-core: ## bin/lifeboat alone
	@mkdir -p $(BIN)
	$(GO_BUILD) -o $(BIN)/ ./cmd/...

test: build ## the fast loop; what takes long is left to e2e
	go test ./...
	cd lab && go test ./...

plain:
	go test $(PLAIN)

race:
	CGO_ENABLED=1 go test -race $(RACE)

e2e: build ## the vault's users killed 200 times, databases at 20 instants; the lab's tests, with whole flows on real sites, on nodes of real pods where this machine allows them
	LIFEBOAT_E2E=1 go test -count=1 -timeout 40m -run 'Killed|ManyProcesses' ./internal/vault
	LIFEBOAT_E2E=1 go test -count=1 -timeout 40m -run PointInTime ./internal/vault/archive
	cd lab && LIFEBOAT_E2E=1 go test -count=1 -timeout 40m -p 1 ./...

lint: ## dependency directions, budgets, formatting, and what go vet finds
	@test -z "$$(gofmt -l cmd internal lab)" || { gofmt -l cmd internal lab; echo "gofmt: run gofmt -w on these"; exit 1; }
	go run $(LINT) run ./...
	cd lab && go run $(LINT) run --config ../.golangci.yml ./...

check: setup lint plain race e2e ## everything that CI runs; installs Debian packages where it may

setup: ## the Debian packages that the tests need; says what it installs or skips
	@scripts/setup.sh

demo: build ## a region is lost and the application comes back
	@$(BIN)/lifeboat demo

bench: build ## figures against their bounds; SUITE=lab,demo picks some of them
	cd lab && go run ./bench -bin $(BIN) -suite "$(SUITE)"

clean:
	rm -rf $(BIN)
