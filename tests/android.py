"""Compiles the app's classes for tests on this machine's JVM, with the real engine."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

BUILD = Path(__file__).parents[1] / "android_demo/offline/build.sh"


def missing() -> str | None:
    """Returns the reason why the app's classes cannot be compiled and run here, or None."""
    for program in ("java", "javac", "aapt2"):
        if not shutil.which(program):
            return f"there is no {program}; android_demo/offline/build.sh fetch installs it"
    cache = subprocess.run([BUILD, "cache"], capture_output=True, text=True, check=True)
    if not os.path.isdir(cache.stdout.strip()):
        return "the app's build has no cache; android_demo/offline/build.sh fetch makes it"
    return None


REASON = missing()


def compile_app() -> None:
    """Compiles the classes of the app and of its tests, if they are out of date."""
    project = BUILD.parents[1]
    output = project / "build"
    # Each compilation first removes this file's folder.
    stamp = output / "test-classes" / "sources.sha256"
    output.mkdir(exist_ok=True)
    # Another pytest process may be compiling.
    with open(output / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        digest = hashlib.sha256()
        folders = ("app", "fedsup", "offline", "build/assets")
        paths = [path for name in folders for path in (project / name).rglob("*")]
        for path in sorted([*paths, project / "gradle.properties"]):
            if path.is_file():
                data = path.read_bytes()
                digest.update(f"{path} {len(data)}\n".encode() + data)
        if not stamp.exists() or stamp.read_text() != digest.hexdigest():
            subprocess.run([BUILD, "compile"], check=True)
            stamp.write_text(digest.hexdigest())


def examples_file(path: Path, images, labels) -> Path:
    """Writes examples for the app's programs: one byte for the label, one for each pixel."""
    rows = zip(labels, images, strict=True)
    path.write_bytes(b"".join(bytes([label]) + image.tobytes() for label, image in rows))
    return path
