"""The app's classes on this machine's JVM, with the real engine of its library, for tests."""

import os
import shutil
import subprocess
from pathlib import Path

BUILD = Path(__file__).parents[1] / "android_demo/offline/build.sh"


def missing() -> str | None:
    """Returns why the app's classes cannot be compiled and run here; None if they can."""
    for program in ("java", "javac", "aapt2"):
        if not shutil.which(program):
            return f"there is no {program}; android_demo/offline/build.sh fetch installs it"
    cache = subprocess.run([BUILD, "cache"], capture_output=True, text=True, check=True)
    if not os.path.isdir(cache.stdout.strip()):
        return "the app's build has no cache; android_demo/offline/build.sh fetch makes it"
    return None


REASON = missing()


def examples_file(path: Path, images, labels) -> Path:
    """Writes examples as the app's programs read them: a byte for the label, one for each pixel."""
    rows = zip(labels, images, strict=True)
    path.write_bytes(b"".join(bytes([label]) + image.tobytes() for label, image in rows))
    return path
