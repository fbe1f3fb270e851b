"""Makes Android's libtensorflowlite_jni.so one that Linux loads, so that tests run the real engine.

Usage: patch_library.py ANDROID.so LINUX.so, with patchelf 0.18 or newer on the PATH.
"""

import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

# Functions whose arguments differ between the C libraries; bionic_shim.c has one of each.
_RENAMED = (
    "fprintf vfprintf fputc fwrite fflush sysconf dlsym pthread_cond_init pthread_cond_signal "
    "pthread_cond_broadcast pthread_cond_wait pthread_cond_timedwait pthread_cond_destroy"
).split()
_LIBRARIES = {"libc.so": "libc.so.6", "libm.so": "libm.so.6", "liblog.so": "libbionicshim.so"}
_DYNAMIC = 2  # Type of the program header that has the dynamic section.
# Tags of the dynamic section that lead to versions of symbols, which are Android's own.
_VERSION_TAGS = {0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF}


def main(source: str, target: str) -> None:
    """Patches a copy of the library."""
    shutil.copyfile(source, target)
    with tempfile.NamedTemporaryFile("w", suffix=".map") as names:
        names.writelines(f"{name} shim_{name}\n" for name in _RENAMED)
        names.flush()
        subprocess.check_call(["patchelf", "--rename-dynamic-symbols", names.name, target])
    needed = [part for pair in _LIBRARIES.items() for part in ("--replace-needed", *pair)]
    options = [*needed, "--remove-needed", "libdl.so", "--set-rpath", "$ORIGIN"]
    subprocess.check_call(["patchelf", *options, target])
    file = pathlib.Path(target)
    file.write_bytes(without_versions(file.read_bytes()))


def without_versions(library: bytes) -> bytes:
    """Returns a 64-bit little-endian library without the versions of its symbols."""
    if library[:6] != b"\x7fELF\x02\x01":
        raise ValueError("Expected a 64-bit little-endian ELF library, received something else.")
    patched = bytearray(library)
    headers = struct.unpack_from("<Q", library, 32)[0]
    size, count = struct.unpack_from("<HH", library, 54)
    for number in range(count):
        header = struct.unpack_from("<IIQQQQ", library, headers + number * size)
        if header[0] != _DYNAMIC:
            continue
        begin, length = header[2], header[5]
        entries = list(struct.iter_unpack("<QQ", library[begin : begin + length]))
        kept = [entry for entry in entries if entry[0] not in _VERSION_TAGS]
        kept += [(0, 0)] * (len(entries) - len(kept))
        patched[begin : begin + length] = b"".join(struct.pack("<QQ", *entry) for entry in kept)
    return bytes(patched)


if __name__ == "__main__":
    main(*sys.argv[1:])
