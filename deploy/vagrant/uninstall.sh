#!/usr/bin/env bash
# Removes everything that install.sh and service.sh have installed, and the pool with its data. Run it as root in the machine.
set -euo pipefail
set -a
. /etc/reconciler/environment
metadata=$(readlink -f /dev/disk/by-partlabel/reconciler-metadata)
disk=/dev/$(lsblk --noheadings --nodeps --output PKNAME "$metadata")
[ "$(lsblk --noheadings --list --output TYPE "$disk" | grep -c part)" = 2 ] || {
  echo "$disk has other partitions than the pool's: nothing removed" >&2
  exit 1
}
systemctl disable --quiet --now reconcile.service reconcile-once.timer manifests-pull.timer sample-s3.service
reconcile detach thin --apply
blkdiscard --force --zeroout "$disk" # wipefs does not recognise thin pools
blockdev --rereadpt "$disk"
rm -f /etc/systemd/system/{reconcile,reconcile-once,sample-s3,manifests-pull}.{service,timer,socket} /etc/modules-load.d/reconciler.conf
rm -rf /etc/udev/rules.d/60-reconciler.rules /run/reconciler
systemctl daemon-reload
git config --system --unset-all safe.directory /srv/git/manifests.git || true
git config --system --unset core.fsync || true
[ -n "$(git config --system --list)" ] || rm -f /etc/gitconfig
rm -rf /usr/local/bin/reconcile /opt/reconciler /etc/reconciler /var/lib/reconciler /srv/manifests /srv/git/manifests.git /srv/sample-s3
rmdir --ignore-fail-on-non-empty /srv/git
