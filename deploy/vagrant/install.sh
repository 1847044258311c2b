#!/usr/bin/env bash
# Installs the reconciler on Debian 12 from the checkout in /vagrant, and prepares its surroundings: a disk with two
# partitions for a thin pool, a repository of manifests that is polled, and (for trials only) an S3 endpoint with sample layers.
# Starts nothing that uses the pool: service.sh does. Repeatable. `vagrant up` runs it as root.
set -euo pipefail
checkout=/vagrant
wheels=$checkout/build/wheels # if it exists, no package index is used
repository=/srv/git/manifests.git
manifests=/srv/manifests

packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -y -q --no-install-recommends "${missing[@]}"
}

reconciler() {
  local source=$checkout from=()
  rm -rf "$checkout"/build/{lib,bdist.*} # setuptools' copies of modules that no longer exist
  if [ -d "$wheels" ]; then
    from=(--no-index --find-links "$wheels")
    source=$(echo "$wheels"/reconcile_images-*.whl)
  fi
  [ -x /opt/reconciler/bin/python ] || python3 -m venv --without-pip /opt/reconciler
  local pip=(python3 -m pip --python /opt/reconciler/bin/python install --quiet --no-compile --no-warn-script-location "${from[@]}")
  "${pip[@]}" "${source}[demo]"
  "${pip[@]}" --force-reinstall --no-deps "$source" # a changed checkout has the same version
  # Byte-compile only what is used; the endpoint's user can't write byte code.
  (cd "$checkout" && /opt/reconciler/bin/python -c 'from samples import s3; s3.connect("http://127.0.0.1"); s3.serve(0)')
  ln -sfn /opt/reconciler/bin/reconcile /usr/local/bin/reconcile
}

# Unused, without a known signature, and zero at both ends. A disk that can't be read is not empty.
empty() {
  local known size
  [ "$(lsblk --noheadings --output NAME "$1" | wc -l)" = 1 ] || return 1 # partitions, LVM, RAID, mappings
  [ -z "$(lsblk --noheadings --output MOUNTPOINTS "$1" | tr -d ' \n')" ] || return 1
  known=$(wipefs --no-act "$1") || return 1
  [ -z "$known" ] || return 1
  size=$(blockdev --getsize64 "$1") || return 1
  cmp --silent --bytes 4194304 "$1" /dev/zero || return 1
  dd if="$1" bs=1M skip=$((size / 1048576 - 1)) count=1 status=none | cmp --silent --bytes 1048576 - /dev/zero || return 1
  python3 -c 'import os, sys; os.open(sys.argv[1], os.O_RDONLY | os.O_EXCL)' "$1" 2>/dev/null # fails while the disk is in use
}

# The first empty disk becomes the pool's.
disk() {
  local name
  [ -e /dev/disk/by-partlabel/reconciler-data ] && return
  while read -r name; do
    empty "$name" || continue
    printf '%s\n' 'label: gpt' 'size=64MiB, name=reconciler-metadata' 'name=reconciler-data' | sfdisk --quiet "$name"
    udevadm settle
    return
  done < <(lsblk --nodeps --noheadings --paths --bytes --output NAME,TYPE,RO,SIZE |
    awk '$2 == "disk" && $3 == 0 && $4 >= 536870912 { print $1 }')
  echo "there is no empty second disk for the pool; with VirtualBox, Vagrant before 2.4 needs VAGRANT_EXPERIMENTAL=disks" >&2
  return 1
}

# A bare repository to push to, and a clone that root updates: in place of a Git server and its agent.
git_repository() {
  git config --system core.fsync all # the clone and pushed commits survive a power cut
  git config --system --get-all safe.directory | grep -qxF "$repository" || git config --system --add safe.directory "$repository"
  [ -d "$repository" ] || bare_repository
  [ -d "$manifests/.git" ] || git clone --quiet "$repository" "$manifests"
}

bare_repository() {
  local draft
  draft=$(mktemp -d)
  git init --quiet --initial-branch main "$draft"
  cp "$checkout"/manifests/quickstart/{base,python}.yaml "$checkout"/samples/manifests/vagrant/*.yaml "$draft"
  sed -i '/yaml-language-server/d' "$draft"/*.yaml # no schema beside them here
  git -C "$draft" add .
  git -C "$draft" -c user.name=reconciler -c user.email=root@localhost commit --quiet --message 'The quickstart, on a thin pool'
  rm -rf "$repository.draft"
  git clone --quiet --bare "$draft" "$repository.draft"
  chown -R vagrant: "$repository.draft"
  mv "$repository.draft" "$repository"
  rm -r "$draft"
}

# The endpoint makes sample layers that the checkout doesn't have.
layers() {
  install -d -o vagrant -g vagrant /srv/sample-s3
  [ ! -d "$checkout/build/layers" ] || install -o vagrant -g vagrant -m 644 "$checkout"/build/layers/* /srv/sample-s3
}

packages e2fsprogs dmsetup thin-provisioning-tools fdisk git python3 python3-venv python3-pip
systemctl stop reconcile.service 2>/dev/null || true # its code is about to change; service.sh starts it
modprobe dm_thin_pool
echo dm_thin_pool >/etc/modules-load.d/reconciler.conf
reconciler
disk
git_repository
layers
[ -e /etc/reconciler/environment ] || install -D -m 644 /dev/stdin /etc/reconciler/environment <<<"RECONCILER_MANIFESTS=$manifests"
# What the manifests may ask of this machine: besides the defaults, the sample endpoint.
[ -e /etc/reconciler/host.yaml ] || install -m 644 /dev/stdin /etc/reconciler/host.yaml <<<'policy: {endpoints: {allow: ["127.0.0.1:9460"]}}'
install -m 644 "$checkout"/deploy/udev/60-reconciler.rules /etc/udev/rules.d
install -m 644 "$checkout"/deploy/systemd/* "$checkout"/deploy/vagrant/*.{service,timer} /etc/systemd/system
systemctl daemon-reload
systemctl enable --quiet sample-s3.service
systemctl restart sample-s3.service
