#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages and the object storages that the tests use, and says so. Without
# the right to install it names what is missing and goes on: each test that needs a missing part then says
# that it is skipped, or fails where LIFEBOAT_CI is set.
set -euo pipefail

# Object storages for tests, outside of the repository, each in a directory with its version. versitygw is
# built once: two minutes on two cores; azurite is 365 MB of JavaScript.
tools=${LIFEBOAT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/lifeboat/tools}
versitygw=1.8.0
azurite=3.37.0

install_versitygw() {
  local dir=$tools/versitygw-$versitygw
  [ ! -x "$dir/versitygw" ] || return 0
  echo "setup: building versitygw $versitygw into $dir: S3 for tests"
  (cd / && CGO_ENABLED=0 GOFLAGS= GOBIN="$dir" go install "github.com/versity/versitygw/cmd/versitygw@v$versitygw")
}

install_azurite() {
  local dir=$tools/azurite-$azurite
  [ ! -f "$dir/node_modules/azurite/package.json" ] || return 0
  if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
    echo "setup: skipped: azurite (Azure Blob for tests) needs node and npm"
    return 0
  fi
  echo "setup: installing azurite $azurite into $dir: Azure Blob for tests"
  rm -rf "$dir.part" && mkdir -p "$dir.part"
  (cd "$dir.part" && npm init -y >/dev/null && npm install --no-audit --no-fund --ignore-scripts --loglevel=error "azurite@$azurite" >/dev/null)
  rm -rf "$dir" && mv "$dir.part" "$dir"
}

install_tools() {
  install_versitygw || echo "setup: skipped: versitygw could not be built"
  install_azurite || echo "setup: skipped: azurite could not be installed"
}

declare -A why=(
  [bind9]="the authoritative DNS server (without it: an embedded one)"
  [bind9-dnsutils]="dig and nsupdate, to look at the zone by hand"
  [restic]="judges the vault's repository"
  [postgresql]="the databases that tests protect and bring back"
  [containerd]="nodes of real pods"
  [runc]="nodes of real pods"
  [containernetworking-plugins]="nodes of real pods"
  [iproute2]="network namespaces of nodes of real pods"
  [nftables]="kube-proxy and network cuts"
  [conntrack]="kube-proxy"
)
# Whoever has Node.js from elsewhere keeps it.
command -v node >/dev/null || why[nodejs]="runs azurite, Azure Blob for tests"
command -v npm >/dev/null || why[npm]="installs azurite, Azure Blob for tests"

missing=()
for p in "${!why[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then
  install_tools
  echo "setup: every package is installed"
  exit 0
fi
for p in "${missing[@]}"; do echo "setup: $p is missing: ${why[$p]}"; done

if ! command -v apt-get >/dev/null; then
  echo "setup: skipped: no apt-get on this machine"
  install_tools
  exit 0
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! sudo -n true 2>/dev/null; then
    echo "setup: skipped: installing needs root; run: sudo apt-get install ${missing[*]}"
    install_tools
    exit 0
  fi
  as_root=(sudo)
fi
echo "setup: installing ${missing[*]}"
# A package must not start a server of its own here: the lab starts what it needs.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod +x "$policy"
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
"${as_root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
install_tools
echo "setup: done"
