#!/bin/bash
# boot.sh uml|kvm|tcg --dir RUNDIR [--socket S --tag T] (--run SCRIPT | --agent | --shell GREETING) [--add FILE]…
#         [--mem MIB] [--cpus N] [--queues N] [--reboot] [--kernel KERNEL] [--queue-size N] [--qemu ARGUMENT]…
#         [--lines FILE]
# Boots a guest with the vhost-user-fs device behind socket S mounted on /mnt, on this terminal or these pipes, and becomes it (exec):
# killing this process kills the guest. RUNDIR is a folder for the guest's files; it is the caller's to delete.
#   --run     run SCRIPT in the guest and power off; the console says "@ringfsd exit STATUS"
#   --agent   run what is written to standard input: "NUMBER COMMAND" a line; the console says "@ringfsd exit NUMBER STATUS"
#   --shell   a person's shell, which begins with the text of the file GREETING
#   --add     put FILE into the guest's root folder
#   --reboot  `reboot -f` in the guest resets the machine, instead of ending it (User-Mode Linux always does so)
#   --kernel  a kernel that setup.sh knows, instead of this Debian's
#   --qemu    an argument more for QEMU
#   --lines   a shell command for QEMU that says memory and share, instead of --mem, --socket and --tag's part in it
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
die() { echo "guest: $*" >&2; exit 1; }

kind=${1:-}
shift || true
dir='' socket='' tag='' mode='' script='' greeting='' mem=256 cpus=1 queues=1 reboot='' files=() kernel=() device='' qemu=() lines=''
while [ $# -gt 0 ]; do
  case $1 in
    --agent) mode=agent && shift && continue ;;
    --reboot) reboot=1 && shift && continue ;;
  esac
  [ $# -ge 2 ] || die "option $1 is unknown or wants a value: see the head of boot.sh"
  case $1 in
    --dir) dir=$2 ;;
    --socket) socket=$2 ;;
    --tag) tag=$2 ;;
    --run) mode=run script=$2 ;;
    --shell) mode=shell greeting=$2 ;;
    --add) files+=("$2") ;;
    --mem) mem=$2 ;;
    --cpus) cpus=$2 ;;
    --queues) queues=$2 ;;
    --queue-size) device=",queue-size=$2" ;;
    --kernel) kernel=("$2") ;;
    --qemu) qemu+=("$2") ;;
    --lines) lines=$(< "$2") ;;
    *) die "unknown option $1: see the head of boot.sh" ;;
  esac
  shift 2
done
[ -n "$mode" ] || die "what shall the guest do? say --run, --agent or --shell"
[ -d "$dir" ] || die "--dir must name a folder for the guest's files, not '$dir'"
cache=$("$here/setup.sh" "$kind" "${kernel[@]}")

# The part of the initramfs that changes from boot to boot. The kernel unpacks archives that follow one another.
tree=$dir/initramfs
rm -rf "$tree"
mkdir -p "$tree"
cp "$here/init" "$tree/init"
[ -z "$script" ] || cp "$script" "$tree/run.sh"
[ -z "$greeting" ] || cp "$greeting" "$tree/greeting"
for file in "${files[@]}"; do cp "$file" "$tree/"; done
chmod 755 "$tree"/*
read -r rows columns < <(stty size 2> /dev/null || echo 24 80) || true
{
  printf 'MODE=%q TAG=%q\n' "$mode" "$tag"
  printf 'ROWS=%q COLUMNS=%q TERM=%q\n' "${rows:-24}" "${columns:-80}" "${TERM:-vt100}"
} > "$tree/guest.conf"
initrd=$dir/initrd

# The kernel's errors are of use in a test's log; a person gets to see only what is critical.
[ "$mode" = shell ] && loglevel=3 || loglevel=4
case $kind in
  uml)
    cp "$cache/uml/initrd" "$initrd"
    # Its memory is a file that it also executes: in /dev/shm, unless that is small or noexec, as in containers.
    unset TMPDIR TMP TEMP
    free_kib=$(df -k --output=avail /dev/shm 2> /dev/null | tail -n 1)
    if [ "${free_kib:-0}" -lt $((mem * 1024)) ] || grep -q '^[^ ]* /dev/shm [^ ]* [^ ]*noexec' /proc/mounts; then
      export TMPDIR=$dir
    fi
    arguments=(mem="${mem}M" initrd="$initrd" uml_dir="$dir" con=null "con0=fd:0,fd:1" quiet "loglevel=$loglevel"
      lsm=capability # its TOMOYO crashes without a policy
      panic=1)
    [ -z "$socket" ] || arguments+=("virtio_uml.device=$socket:26:0")
    command=("$cache/uml/kernel" "${arguments[@]}")
    ;;
  kvm | tcg)
    parts=$cache/${kernel[0]:-pc}
    cp "$parts/initrd" "$initrd"
    arguments=(-machine q35 -accel "$kind" -smp "$cpus" -nodefaults -no-user-config -display none
      -kernel "$parts/kernel" -initrd "$initrd"
      -append "console=ttyS0 quiet loglevel=$loglevel panic=1 mitigations=off nokaslr random.trust_cpu=on")
    # QEMU 7.2 emulates cmpxchg16b with flags that may be stale, which newer kernels' allocator does not survive for long.
    [ "$kind" = tcg ] && arguments+=(-cpu "max,-cx16") || arguments+=(-cpu host)
    [ -n "$reboot" ] || arguments+=(-no-reboot)
    # signal=off leaves ^C to the guest; a person may also want QEMU's own keys (^A x ends it).
    if [ "$mode" = shell ]; then
      arguments+=(-chardev "stdio,id=con,signal=off,mux=on" -mon chardev=con)
    else
      arguments+=(-chardev "stdio,id=con,signal=off")
    fi
    arguments+=(-serial chardev:con)
    if [ -n "$lines" ]; then
      command=(bash -c "$lines \"\$@\"" bash "${arguments[@]}" "${qemu[@]}")
    else
      arguments+=(-m "${mem}M" -object "memory-backend-memfd,id=mem,size=${mem}M,share=on" -numa "node,memdev=mem")
      [ -z "$socket" ] ||
        arguments+=(-chardev "socket,id=fs,path=$socket"
          -device "vhost-user-fs-pci,chardev=fs,tag=$tag,num-request-queues=$queues$device")
      command=(qemu-system-x86_64 "${arguments[@]}" "${qemu[@]}")
    fi
    ;;
esac
(cd "$tree" && find . | sort | "$cache/bin/busybox" cpio -o -H newc -R 0:0 2> /dev/null | gzip -1) >> "$initrd"
rm -rf "$tree"
exec "${command[@]}"
