#!/bin/busybox sh
# First process of the guest: mounts what the program needs, runs the self-test, prints its report between two marks; then that of
# the same without the programs on security hooks, as a kernel is that lets none be there; then what `life.sh` sees.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /var
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t cgroup2 none /sys/fs/cgroup
/bin/busybox mount -t bpf none /sys/fs/bpf
/bin/busybox mount -t securityfs none /sys/kernel/security
/bin/busybox mount -t tmpfs none /run
/bin/busybox ip link set lo up
for module in /modules/*.ko*; do
  [ -e "$module" ] && /bin/busybox insmod "$module" 2>/dev/null
done
echo "report begins"
/bin/chaperone selftest --standalone --json
echo
echo "report ends"
echo "unhooked begins"
/bin/chaperone selftest --standalone --json --without security
echo
echo "unhooked ends"
/bin/busybox sh /life.sh
/bin/busybox poweroff -f
