#!/usr/bin/env bash
# Debian packages of `make vagrant-test` beside make and Python: root installs them, other users get the command.
set -euo pipefail
packages=(vagrant vagrant-libvirt libvirt-clients qemu-system-x86 qemu-utils rsync openssh-client)
if [ "${RECONCILER_VM_DRIVER:-qemu}" = qemu ]; then
  packages+=(libvirt-daemon libvirt-daemon-driver-qemu mmdebstrap util-linux e2fsprogs)
  [ "$(id -u)" = 0 ] || packages+=(uidmap) # for mmdebstrap
else
  packages+=(libvirt-daemon-system)
fi
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} = 0 ] && exit
if [ "$(id -u)" != 0 ]; then
  echo "missing: apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends "${missing[@]}"
