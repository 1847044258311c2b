#!/usr/bin/env bash
# Makes a Vagrant box for libvirt from Debian's packages: no boot loader, no box catalogue, and no root if mmdebstrap needs none.
# `reconcile build` writes its file system: the machine of the tests boots from an image of this project.
#   build_box.sh DIRECTORY          leaves DIRECTORY/reconciler.box
set -euo pipefail
out=$(realpath -m "${1:?a directory for the box}")
here=$(cd "$(dirname "$0")" && pwd)
reconcile=$here/../../.venv/bin/reconcile
# Vagrant's public insecure key. The machine's ssh port is on loopback only.
key=${BOX_PUBKEY:-$(find /usr/share/rubygems-integration /opt/vagrant -path '*/vagrant-[0-9]*/keys/vagrant.pub' 2>/dev/null | sort | tail -n 1 || true)}
[ -n "$key" ] || { echo "vagrant.pub of Vagrant not found (set BOX_PUBKEY to its path)" >&2; exit 1; }
packages=linux-image-cloud-amd64,initramfs-tools,zstd,systemd,systemd-sysv,udev,dbus,libpam-systemd,openssh-server,sudo,rsync,kmod,procps
packages+=,iproute2,ca-certificates,fdisk,e2fsprogs,dmsetup,thin-provisioning-tools,git,python3,python3-venv,python3-pip,qemu-guest-agent

mkdir -p "$out"
work=$(mktemp -d "${TMPDIR:-/tmp}/box.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
chmod 755 "$work" # without root, mmdebstrap's hooks run as another user
mkdir -m 1777 "$work/tmp"

# Before the kernel is installed: an initrd with two drivers only, which a slow machine unpacks quickly.
cat >"$work/early" <<'EARLY'
set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d"
printf 'MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=3\n' >"$1/etc/initramfs-tools/conf.d/box"
printf 'virtio_pci\nvirtio_blk\n' >>"$1/etc/initramfs-tools/modules"
EARLY

cat >"$work/late" <<'LATE'
set -eu
root=$1 key=$2
echo reconciler >"$root/etc/hostname"
printf '127.0.0.1 localhost reconciler\n::1 localhost\n' >"$root/etc/hosts"
printf '/dev/vda / ext4 defaults,noatime,x-systemd.growfs 0 1\n' >"$root/etc/fstab"
chroot "$root" useradd --create-home --shell /bin/bash vagrant
install -d -m 700 "$root/home/vagrant/.ssh"
install -m 600 "$key" "$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant: /home/vagrant
printf 'vagrant ALL=(ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/vagrant"
chmod 440 "$root/etc/sudoers.d/vagrant"
printf 'UseDNS no\nPrintMotd no\n' >"$root/etc/ssh/sshd_config.d/box.conf"
chroot "$root" ssh-keygen -A
printf '[Match]\nName=en* eth*\n[Network]\nDHCP=yes\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n' >"$root/etc/systemd/network/80-dhcp.network"
chroot "$root" systemctl --quiet enable systemd-networkd ssh
chroot "$root" systemctl --quiet disable systemd-networkd-wait-online || true
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
  systemd-timesyncd.service systemd-pstore.service getty@tty1.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
: >"$root/etc/machine-id"
LATE

TMPDIR=$work/tmp mmdebstrap --variant=minbase --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --essential-hook="sh $work/early \"\$1\"" --customize-hook="sh $work/late \"\$1\" $key" \
  --include="$packages" bookworm "$work/root.tar"

tar -C "$work" --wildcards --strip-components=2 -xf "$work/root.tar" './boot/vmlinuz-*' './boot/initrd.img-*'
mv "$work"/vmlinuz-* "$out/vmlinuz"
mv "$work"/initrd.img-* "$out/initrd.img"
"$reconcile" build "$work/root.tar" --output "$work/root.ext4" --size 4GiB
truncate --size 8G "$work/root.ext4" # the file system grows to its disk when the machine boots
rm "$work/root.tar"
qemu-img convert -O qcow2 "$work/root.ext4" "$out/box.img"
echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 8}' >"$out/metadata.json"
cp "$here/box.Vagrantfile" "$out/Vagrantfile"
tar -C "$out" -cf "$out/draft" metadata.json Vagrantfile box.img vmlinuz initrd.img
rm "$out"/{metadata.json,Vagrantfile,box.img,vmlinuz,initrd.img}
mv "$out/draft" "$out/reconciler.box"
