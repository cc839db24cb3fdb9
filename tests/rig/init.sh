#!/bin/bash
# PID 1 of a rig host. Runs inside the new namespaces and gives the host a file system of its own where machines differ:
# everything else is the real machine's, read and written as it is.
#   init.sh NAME FOLDER DATA_ROOT LAYERS REPOSITORY
# FOLDER holds run, srv, tmp and what is laid over etc; DATA_ROOT is Docker's; LAYERS is another data root to take layers
# from, or empty.
set -eu
name=$1 folder=$2 data_root=$3 layers=$4 repository=$5

# A sysfs shows the network devices of the namespace that mounts it, and hides the cgroups below the old one.
mkdir -p "$folder/cgroup"
mount --rbind /sys/fs/cgroup "$folder/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$folder/cgroup" /sys/fs/cgroup

mount -t tmpfs -o mode=1777 shm /dev/shm
mkdir -p /var/lib/docker
mount --bind "$data_root" /var/lib/docker
if [ -n "$layers" ]; then
    mount --bind "$layers" /var/lib/docker/shared
    mount -o remount,bind,ro /var/lib/docker/shared
fi
mount -t overlay -o "lowerdir=/etc,upperdir=$folder/etc,workdir=$folder/etc-work" overlay /etc
mount --bind "$folder/srv" /srv
mount --bind "$folder/run" /run
# A checkout below /tmp stays reachable, so that hosts can run the trainer from it.
case "$repository" in
    /tmp/*)
        mkdir -p "$folder$repository"
        mount --rbind "$repository" "$folder$repository"
        ;;
esac
mount --rbind "$folder/tmp" /tmp

hostname "$name"
ip link set lo up
echo ready
exec </dev/null >/dev/null 2>&1
# bash as PID 1 reaps what it adopts, such as the shims of dead containers.
while :; do
    sleep infinity &
    wait $! || true
done
