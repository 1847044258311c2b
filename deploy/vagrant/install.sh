#!/usr/bin/env bash
# Installs the reconciler on Debian 12 from the checkout in /vagrant, and prepares what a host has around it: a disk with two
# partitions for a thin pool, a repository of manifests that is polled, and (for trying only) an S3 endpoint with sample layers.
# Nothing is started that touches the pool: that is service.sh. Can be run again. Run as root, by `vagrant up`.
set -euo pipefail
checkout=/vagrant
wheels=$checkout/build/wheels # where there is one, no package index is asked
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
  if [ -d "$wheels" ]; then
    from=(--no-index --find-links "$wheels")
    source=$(echo "$wheels"/reconciler-*.whl)
  fi
  [ -x /opt/reconciler/bin/python ] || python3 -m venv --without-pip /opt/reconciler
  local pip=(python3 -m pip --python /opt/reconciler/bin/python install --quiet --no-compile --no-warn-script-location "${from[@]}")
  "${pip[@]}" "${source}[demo]"
  "${pip[@]}" --force-reinstall --no-deps "$source" # a changed checkout has the same version
  # Byte code is kept of what is used, which is little of what there is; the endpoint's user could keep none.
  (cd "$checkout" && /opt/reconciler/bin/python -c 'from samples import s3; s3.connect("http://127.0.0.1"); s3.serve(0)')
  ln -sfn /opt/reconciler/bin/reconcile /usr/local/bin/reconcile
}

# The first disk without anything on it becomes the pool's. A disk that holds anything is left alone.
disk() {
  local name
  [ -e /dev/disk/by-partlabel/reconciler-data ] && return
  while read -r name; do
    [ -z "$(wipefs --no-act "$name")" ] && [ "$(lsblk -no MOUNTPOINTS "$name" | tr -d '\n')" = "" ] || continue
    printf '%s\n' 'label: gpt' 'size=64MiB, name=reconciler-metadata' 'name=reconciler-data' | sfdisk --quiet "$name"
    udevadm settle
    return
  done < <(lsblk --nodeps --noheadings --paths --output NAME,TYPE | awk '$2 == "disk" { print $1 }')
  echo "there is no empty second disk for the pool; with VirtualBox, Vagrant before 2.4 needs VAGRANT_EXPERIMENTAL=disks" >&2
  return 1
}

# A bare repository to push to, and a clone of it that root keeps up to date: the stand-in for a Git server and its agent.
git_repository() {
  git config --system core.fsync all # a power cut must not cost the clone, nor what was pushed
  [ -d "$repository" ] && return
  local draft
  draft=$(mktemp -d)
  git init --quiet --initial-branch main "$draft"
  cp "$checkout"/manifests/quickstart/{base,python,slim}.yaml "$checkout/manifests/vagrant/pool.yaml" "$draft"
  sed -i '/yaml-language-server/d' "$draft"/*.yaml # the schema is not beside them here
  git -C "$draft" add .
  git -C "$draft" -c user.name=reconciler -c user.email=root@localhost commit --quiet --message 'The quickstart, on a thin pool'
  git clone --quiet --bare "$draft" "$repository"
  rm -r "$draft"
  chown -R vagrant: "$repository"
  git config --system --add safe.directory "$repository"
  git clone --quiet "$repository" "$manifests"
}

# Sample layers are made by the endpoint where they don't come with the checkout.
layers() {
  install -d -o vagrant -g vagrant /srv/sample-s3
  [ ! -d "$checkout/build/layers" ] || install -o vagrant -g vagrant -m 644 "$checkout"/build/layers/* /srv/sample-s3
}

packages e2fsprogs dmsetup thin-provisioning-tools fdisk git python3 python3-venv python3-pip
modprobe dm_thin_pool
echo dm_thin_pool >/etc/modules-load.d/reconciler.conf
reconciler
disk
git_repository
layers
install -D -m 644 /dev/stdin /etc/reconciler/environment <<<"RECONCILER_MANIFESTS=$manifests"
install -m 644 "$checkout"/deploy/systemd/* "$checkout"/deploy/vagrant/*.{service,timer} /etc/systemd/system
systemctl daemon-reload
systemctl enable --quiet --now sample-s3.service
