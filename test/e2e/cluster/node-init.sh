#!/bin/bash
# Pid 1 of a node: gives it a root of its own (an overlay over the machine's /), then runs its daemons and starts again what ends.
#   node-init.sh NAME MACHINE FILES BIN LOGS    FILES: this machine's directory (node.ts writes it); appears as /node inside.
# FILES/root is the disk: what a boot before has left there is found again.
set -euo pipefail
name=$1 machine=$2 files=$3 bin=$4 logs=$5
hostname "$name"
mount --make-rprivate /
first=; [[ -d $files/root/upper ]] || first=yes
mkdir -p "$files"/root/{upper,work,merged}
root=$files/root/merged
mount -t overlay -o "lowerdir=/,upperdir=$files/root/upper,workdir=$files/root/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
for directory in run tmp; do mount -t tmpfs tmpfs "$root/$directory"; done

if [[ $first ]]; then
  # What the machine has and a fresh node has not.
  rm -rf "$root"/etc/cni "$root"/opt/cni "$root"/var/lib/{cni,weft,containerd,kubelet} "$root"/var/log/pods
  mkdir -p "$root"/{node/{bin,logs},var/lib/{containerd,kubelet},var/log/pods,etc/containerd,etc/kubernetes/manifests,etc/cni/net.d,opt/cni/bin}
  [[ ! -d $files/opt-cni-bin ]] || cp "$files"/opt-cni-bin/* "$root/opt/cni/bin/"
  # An id of its own, or the agents say that one machine was cloned.
  rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id"
  md5sum <<<"$machine" | cut -c1-32 >"$root/etc/machine-id"
fi
mkdir -p "$root"/run/{netns,lock}
mount --bind "$bin" "$root/node/bin"
mount --bind "$logs" "$root/node/logs"
for directory in containerd kubelet; do mount --bind "$files/$directory" "$root/var/lib/$directory"; done
cp "$files"/{kubelet.yaml,kubelet.kubeconfig,kube-proxy.yaml,kube-proxy.kubeconfig,ca.crt,node-ips} "$root/node/"
cp "$files/containerd.toml" "$root/etc/containerd/config.toml"
: >"$root/etc/resolv.conf"
echo "$name" >"$root/etc/hostname"
printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
tr , '\n' <"$files/node-ips" | sed "s/\$/ $name/" >>"$root/etc/hosts"

# cgroup v1: the node's own corner of each hierarchy (a cgroup namespace makes it look like the top).
mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
for hierarchy in cpu cpuacct cpuset memory devices freezer blkio pids; do
  mkdir "$root/sys/fs/cgroup/$hierarchy"
  mount -t cgroup -o "$hierarchy" cgroup "$root/sys/fs/cgroup/$hierarchy"
done
mkdir "$root/sys/fs/cgroup/systemd"
mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
mount -t bpf bpf "$root/sys/fs/bpf" 2>/dev/null || true

# Kubelet insists on these and would set them for the whole machine: it finds files that say so already.
mkdir -p "$files/root/sysctl"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=$files/root/sysctl/${setting//\//.}
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "$root/proc/sys/${setting%=*}"
done

cd "$root"
mkdir .old
pivot_root . .old
cd /
umount -l /.old
rmdir /.old
mount --make-rshared /
export PATH=/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

keep() {
  local log=/node/logs/$machine-$1.log
  shift
  while :; do
    "$@" >>"$log" 2>&1 </dev/null || true
    echo "--- ended; starting again" >>"$log"
    sleep 1
  done
}
keep containerd containerd &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
touch /run/containerd-up
until [[ -e /node/images-there ]]; do sleep 0.05; done
# The node's addresses may have changed when it starts again.
keep kubelet sh -c "exec kubelet --config=/node/kubelet.yaml --kubeconfig=/node/kubelet.kubeconfig \
  '--hostname-override=$name' \"--node-ip=\$(cat /node/node-ips)\"" &
keep kube-proxy kube-proxy --config=/node/kube-proxy.yaml &
wait
