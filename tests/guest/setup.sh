#!/bin/bash
# setup.sh uml|kvm|tcg [KERNEL]: puts what a guest of that kind needs into the cache folder and prints that folder.
#   CACHE/bin/busybox              Debian's static busybox, for the guest and for scripts run on the host alike
#   CACHE/{uml,pc}/{kernel,initrd} a kernel and an initramfs with busybox and the modules that mount virtiofs
#   CACHE/KERNEL/{kernel,initrd}   the same with another kernel than this Debian's:
#                                  linux-6.12     Debian 13's, as virtual machines in the cloud have it
#                                  linux-6.12-9p  Debian 13's for any PC, which has 9p as well
# Packages are downloaded and unpacked there, which needs no root; QEMU alone has too many libraries and is installed.
# The cache is .cache/guest in the project, or $RINGFSD_TEST_CACHE; deleting it is always safe.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${RINGFSD_TEST_CACHE:-$here/../../.cache/guest}

say() { echo "guest: $*" >&2; }
die() { say "$*"; exit 1; }

kind=${1:-}
case $kind in
  uml) flavour=uml ;;
  kvm | tcg) flavour=${2:-pc} ;;
  *) die "which guest? say uml, kvm or tcg, not '$kind'" ;;
esac
# The suite that the kernel comes from, where that is not this Debian's.
suite='' meta=linux-image-cloud-amd64 wanted="virtio_pci virtiofs"
case $flavour in
  uml | pc) ;;
  linux-6.12) suite=trixie ;;
  linux-6.12-9p) suite=trixie meta=linux-image-amd64 wanted="virtio_pci virtiofs 9pnet_virtio 9p" ;;
  *) die "no such kernel: '$flavour'; see the head of setup.sh" ;;
esac

[ "$(uname -m)" = x86_64 ] || die "guest kernels are set up for x86_64 only, this is $(uname -m): use a virtual machine of your own"
command -v apt-get > /dev/null || die "guest kernels come from Debian packages, and there is no apt-get here: use Debian or a container of it"
mkdir -p "$cache/bin"
cache=$(cd "$cache" && pwd)

# Two suites may start at once: the second waits, then finds everything done.
exec 9> "$cache/lock"
flock 9
scratch=$(mktemp -d "$cache/tmp.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

apt_updated=
apt_update() { # once; package lists may be missing altogether (container images ship none)
  [ -z "$apt_updated" ] || return 1
  apt_updated=1
  [ "$(id -u)" = 0 ] || return 1
  say "refreshing the package lists (apt-get update)"
  apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
}

apt_options=(-qq)
[ "$(id -u)" != 0 ] || apt_options+=(-o APT::Sandbox::User=root)

use_suite() { # SUITE: from here on packages are those of another Debian, whose lists are kept apart from the system's
  local apt=$scratch/apt mirror
  mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list || true; } 2> /dev/null |
    sed -n -E 's/^URIs: *([^ ]*).*/\1/p; s/^deb (\[[^]]*\] )?([^ ]*) .*/\2/p' | grep -m 1 '/debian/*$') ||
    die "no mirror of Debian's in /etc/apt: a kernel of Debian's $1 cannot be had"
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  : > "$apt/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" > "$apt/sources.list"
  apt_options+=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt/cache" -o "Dir::State::status=$apt/status")
  apt_updated=1
  apt-get "${apt_options[@]}" -o Acquire::Languages=none update >&2 ||
    die "cannot get the package lists of Debian's $1 from the mirror in /etc/apt"
}

download() { # PACKAGE FOLDER: download it and unpack it into FOLDER
  local debs=$scratch/debs-$1
  mkdir -p "$debs" "$2"
  say "downloading and unpacking Debian's $1 into $cache (nothing is installed)"
  (cd "$debs" && apt-get "${apt_options[@]}" download "$1" >&2) ||
    { apt_update && (cd "$debs" && apt-get "${apt_options[@]}" download "$1" >&2); } ||
    die "cannot download Debian's package $1: run 'sudo apt-get update', then try again"
  dpkg -x "$debs"/*.deb "$2"
  rm -rf "$debs"
}

root_of() { # PACKAGE: sets $root to where its files are: / if installed, else a folder it is unpacked into
  root=/
  [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2> /dev/null)" = "ii " ] && return
  root=$scratch/$1
  download "$1" "$root"
}

install_qemu() {
  ! command -v qemu-system-x86_64 > /dev/null || return 0
  local line="apt-get install --no-install-recommends qemu-system-x86"
  [ "$(id -u)" = 0 ] || die "QEMU is missing and only root can install it: run 'sudo $line'"
  say "installing QEMU ($line)"
  apt_update || true
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 install \
    --no-install-recommends qemu-system-x86 > "$scratch/apt.log" 2>&1 < /dev/null ||
    { tail -n 5 "$scratch/apt.log" >&2; die "'$line' failed: see the lines above"; }
}

add_module() { # NAME: copies the module and what it depends on into the initramfs, and notes the order to load them in
  local name=${1//-/_} file dependency
  ! grep -qx "$name.ko" "$tree/modules/order" || return 0
  # Files are spelled with - or _ as their authors pleased. What is no file is built into the kernel.
  file=$(find "$modules" -name "${name//_/[-_]}.ko*" -print -quit)
  [ -n "$file" ] || return 0
  case $file in
    *.ko) cp "$file" "$tree/modules/$name.ko" ;;
    *.ko.xz) "$busybox" xz -dc "$file" > "$tree/modules/$name.ko" ;;
    *.ko.gz) "$busybox" gzip -dc "$file" > "$tree/modules/$name.ko" ;;
    *) die "module $file is compressed in a way that this script does not know" ;;
  esac
  # Each module names those it needs in its .modinfo section, so depmod is not called for.
  for dependency in $(tr '\0' '\n' < "$tree/modules/$name.ko" | sed -n 's/^depends=//p' | tr , ' '); do
    add_module "$dependency"
  done
  echo "$name.ko" >> "$tree/modules/order"
}

image_of() { # META: the package of the kernel that it stands for
  apt-cache "${apt_options[@]}" depends "$1" 2> /dev/null | sed -n 's/^ *Depends: //p' | head -n 1
}

busybox=$cache/bin/busybox
if [ ! -x "$busybox" ]; then
  root_of busybox-static
  cp "$(find "$root/bin/busybox" "$root/usr/bin/busybox" -maxdepth 0 2> /dev/null | head -n 1)" "$scratch/busybox"
  mv "$scratch/busybox" "$busybox"
fi

[ "$flavour" != pc ] || install_qemu

if [ ! -e "$cache/$flavour/initrd" ]; then
  new=$scratch/new tree=$scratch/tree
  mkdir -p "$new" "$tree/modules" "$tree/bin"
  if [ "$flavour" = uml ]; then
    root_of user-mode-linux
    cp "$root/usr/bin/linux.uml" "$new/kernel"
    modules=$root/usr/lib/uml/modules/$("$new/kernel" --version)
    wanted="virtiofs"
  else
    [ -z "$suite" ] || use_suite "$suite"
    image=$(image_of "$meta")
    [ -n "$image" ] || { apt_update && image=$(image_of "$meta"); } || true
    [ -n "$image" ] || die "apt does not know $meta: run 'sudo apt-get update', then try again"
    download "$image" "$scratch/linux"
    cp "$scratch"/linux/boot/vmlinuz-* "$new/kernel"
    # /lib up to Debian 12, /usr/lib from 13 on.
    modules=$(dirname "$(find "$scratch/linux" -path '*lib/modules/*' -name modules.builtin -print -quit)")
  fi
  : > "$tree/modules/order"
  for name in $wanted; do add_module "$name"; done
  [ -e "$tree/modules/virtiofs.ko" ] || grep -q '/virtiofs\.ko$' "$modules/modules.builtin" ||
    die "the kernel has no virtiofs in $modules: the guest could not mount anything"
  cp "$busybox" "$tree/bin/busybox"
  (cd "$tree" && find . | sort | "$busybox" cpio -o -H newc -R 0:0 2> /dev/null | gzip -1) > "$new/initrd"
  rm -rf "${cache:?}/$flavour"
  mv "$new" "$cache/$flavour"
fi
echo "$cache"
