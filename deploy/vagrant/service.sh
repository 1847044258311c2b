#!/usr/bin/env bash
# Starts what keeps the machine as its repository of manifests says, now and at every boot, and waits until it is so.
# Run as root, by `vagrant up`, after install.sh.
set -euo pipefail
systemctl enable --quiet --now manifests-pull.timer
systemctl enable --quiet reconcile.service
systemctl restart reconcile.service # it may be running what was installed before
set -a
. /etc/reconciler/environment
for image in base python slim; do
  [ ! -e "$RECONCILER_MANIFESTS/$image.yaml" ] || reconcile wait --for ready --timeout 900 "image/$image"
done
reconcile list
