#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that the tests use, and says so. Without the right to install
# it names what is missing and goes on: each test that needs a missing package then says that it is
# skipped, or fails where LIFEBOAT_CI is set.
set -euo pipefail

declare -A why=(
  [bind9]="the authoritative DNS server (without it: an embedded one)"
  [bind9-dnsutils]="dig and nsupdate, to look at the zone by hand"
  [restic]="judges the vault's repository"
  [containerd]="nodes of real pods"
  [runc]="nodes of real pods"
  [containernetworking-plugins]="nodes of real pods"
  [iproute2]="network namespaces of nodes of real pods"
  [nftables]="kube-proxy and network cuts"
  [conntrack]="kube-proxy"
)

missing=()
for p in "${!why[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "setup: every package is installed"
  exit 0
fi
for p in "${missing[@]}"; do echo "setup: $p is missing: ${why[$p]}"; done

if ! command -v apt-get >/dev/null; then
  echo "setup: skipped: no apt-get on this machine"
  exit 0
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! sudo -n true 2>/dev/null; then
    echo "setup: skipped: installing needs root; run: sudo apt-get install ${missing[*]}"
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
echo "setup: done"
