#!/bin/sh
# Step of the Dockerfile, on the builder: compilers for the target architecture, and the shared libraries that the agent needs
# there, unpacked from Debian's packages into /root-fs with their copyright files and a record of each for image scanners.
#   prepare.sh TARGETARCH    writes /deploy/image/target: the compilers' names for later steps
set -eu
target=${1:-$(dpkg --print-architecture)}
builder=$(dpkg --print-architecture)
libraries='libc6 libgcc-s1 libstdc++6 libnftables1 libnftnl11 libmnl0 libgmp10 libjansson4 libxtables12'
case $target in
  amd64) triplet=x86_64-linux-gnu musl=x86_64-linux-musl package=x86-64-linux-gnu ;;
  arm64) triplet=aarch64-linux-gnu musl=aarch64-linux-musl package=aarch64-linux-gnu ;;
  *)
    echo "weft: no image for architecture $target: amd64 and arm64 are there" >&2
    exit 1
    ;;
esac

if [ "$target" = "$builder" ]; then
  apt-get update
  apt-get install -y -qq --no-install-recommends gcc binutils libc6-dev musl-tools
  printf 'SHIM_CC=musl-gcc\nADDON_CC=cc\nSTRIP=strip\n' >/deploy/image/target
else
  dpkg --add-architecture "$target"
  apt-get update
  apt-get install -y -qq --no-install-recommends "gcc-$package" "libc6-dev-$target-cross" "musl-dev:$target"
  # musl-tools has this wrapper for the builder's own architecture only.
  printf '#!/bin/sh\nexec %s-gcc "$@" -specs /usr/lib/%s/musl-gcc.specs\n' "$triplet" "$musl" >/usr/local/bin/musl-cross
  chmod +x /usr/local/bin/musl-cross
  printf 'SHIM_CC=musl-cross\nADDON_CC=%s-gcc\nSTRIP=%s-strip\n' "$triplet" "$triplet" >/deploy/image/target
fi

mkdir -p /tmp/debs /tmp/unpacked /root-fs/tmp /root-fs/etc /root-fs/var/lib/dpkg/status.d
cd /tmp/debs
for library in $libraries; do apt-get download -qq "$library:$target"; done
for deb in *.deb; do
  name=$(dpkg-deb -f "$deb" Package)
  dpkg-deb -x "$deb" /tmp/unpacked
  dpkg-deb -f "$deb" >"/root-fs/var/lib/dpkg/status.d/$name"
  echo "$name $(dpkg-deb -f "$deb" Version) $target" >>/root-fs.packages
done
cd /tmp/unpacked
# Programs and conversion tables of libc6, and notes for packagers, are of no use there.
rm -rf sbin usr/sbin usr/bin usr/share/lintian usr/share/bug usr/lib/*/gconv
# /lib and /lib64 are links in Debian 12, and the packages still name them.
for directory in lib lib64; do
  mkdir -p "usr/$directory"
  [ ! -d "$directory" ] || { cp -a "$directory/." "usr/$directory" && rm -rf "$directory"; }
  ln -s "usr/$directory" "$directory"
done
cp -a . /root-fs
chmod 1777 /root-fs/tmp
printf 'root:x:0:0:root:/root:/sbin/nologin\n' >/root-fs/etc/passwd
printf 'root:x:0:\n' >/root-fs/etc/group
printf 'hosts: files dns\n' >/root-fs/etc/nsswitch.conf
printf 'NAME="Weft"\nID=debian\nVERSION_ID="12"\nPRETTY_NAME="Weft on libraries of Debian 12"\n' >/root-fs/etc/os-release
rm -rf /tmp/debs /tmp/unpacked /var/lib/apt/lists/*
