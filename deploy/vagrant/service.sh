#!/usr/bin/env bash
# Starts the service and the poll of its repository of manifests, now and at every boot, and waits until the images are ready.
# `vagrant up` runs it as root after install.sh.
set -euo pipefail
systemctl enable --quiet --now manifests-pull.timer
systemctl enable --quiet reconcile.service
systemctl restart reconcile.service # it may be running older code
set -a
. /etc/reconciler/environment
for image in base python slim; do
  [ ! -e "$RECONCILER_MANIFESTS/$image.yaml" ] || reconcile wait --for ready --timeout 900 "image/$image"
done
reconcile list
