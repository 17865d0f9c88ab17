#!/usr/bin/env bash
# Build the Dockerfile and run the quickstart in the image without a Docker engine: with buildah in chroot isolation, on
# a Debian base image from debootstrap. Needs root and the packages buildah and debootstrap; takes about ten minutes.
#
#   bash docker/try.sh [SOURCE:TARGET...]
#
# Each SOURCE on this machine is mounted at TARGET during the build: configuration that pip and apt need if they do not
# use the public package servers.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
container=
trap '[[ -z $container ]] || buildah rm "$container" >/dev/null; rm -rf "$work"' EXIT
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs

echo "==> Building the base image"
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$work/base" >"$work/log"
tar --create --directory "$work/base" --file "$work/base.tar" .
base=$(buildah from scratch)
buildah add --quiet "$base" "$work/base.tar" /
buildah commit --quiet --rm "$base" optml-base

echo "==> Building the image"
mounts=()
for mount in "$@"; do
  mounts+=(--volume "$mount:ro")
done
buildah build --quiet "${mounts[@]}" --build-arg BASE=localhost/optml-base -f "$root/docker/Dockerfile" -t optml "$root"

echo "==> Running the quickstart in the image"
git clone --quiet "$root" "$work/checkout"
chown -R 1000 "$work/checkout"
container=$(buildah from optml)
buildah run --volume "$work/checkout:/work" "$container" -- bash scripts/quickstart.sh
