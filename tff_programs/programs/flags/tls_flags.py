"""Flags for the files of mutual TLS between a training program and its workers."""

from tff_programs.execution.forwarder import TlsFiles
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags

_NAMES = tuple(f"tls_{name}" for name in TlsFiles._fields)


def define_tls_flags(define: FlagDefiner) -> None:
    """Defines the flags for `tls_files_from_flags`."""
    define.path("tls_certificate", None, "PEM file of the certificate shown to the peer.")
    define.path("tls_key", None, "PEM file of its private key, unencrypted.")
    define.path(
        "tls_authority", None, "PEM file of the authority whose certificates a peer must show."
    )


def tls_files_from_flags(options: ProgramFlags) -> TlsFiles | None:
    """Returns the files for mutual TLS; None if no flag names any.

    Raises:
      ValueError: If some of the files are named and some are not.
    """
    values = [options[name].value for name in _NAMES]
    if not any(values):
        return None
    if not all(values):
        missing = [f"--{name}" for name, value in zip(_NAMES, values, strict=True) if not value]
        raise ValueError(
            f"Expected {', '.join(f'--{name}' for name in _NAMES)} together, received none of "
            f"{', '.join(missing)}."
        )
    return TlsFiles(*values)
