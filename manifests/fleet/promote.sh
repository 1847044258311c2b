#!/bin/sh
# Promotes a release ring by ring: selects the next ring too, commits, pushes, and waits until the fleet has converged on the commit.
# CI runs it in a clone. A gate that fails ends it, and the release stays in the rings that it has reached.
#
#     manifests/fleet/promote.sh manifests/fleet/web-1-5.yaml canary early fleet
set -eu
gate=${GATE:-reconcile fleet wait --percent 95 --timeout 30m --revision}
file=$1
shift
rings=
for ring; do
  rings="${rings:+$rings, }$ring"
  sed -i "s/values: \[.*\]/values: [$rings]/" "$file"
  git diff --quiet -- "$file" || git commit --quiet --message "$(basename "$file" .yaml) in $rings" -- "$file"
  git push --quiet
  $gate "$(git rev-parse HEAD)" # words on purpose: a command with its options
done
