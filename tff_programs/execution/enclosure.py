"""Starts TFF's worker so that it can only be reached through this project's forwarder.

TFF's worker listens on all interfaces and executes whatever it is sent. This script therefore moves
its process into a network namespace whose only interface is the loopback, starts the forwarder
there, and then executes the worker. The forwarder accepts connections from a listening socket that
the caller created outside the namespace.

The script is run by path, in Python's isolated mode and without site packages, and needs only the
standard library, since it starts once for every worker.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import pathlib
import signal
import socket
import struct
import sys

# From Linux's sched.h, prctl.h, if.h and sockios.h.
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PARENT_DEATH_SIGNAL = 1
_INTERFACE_UP = 1
_SET_INTERFACE_FLAGS = 0x8914
# Every port is free in a new namespace.
_ENCLOSED_PORT = 10000
# A process that may create network namespaces needs no user namespace, in which it would lose its
# access to other users' files.
_NAMESPACES = (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET)


def command(
    worker: list[str],
    binary: str,
    listener: int,
    *,
    report: int | None = None,
    core: int | None = None,
    parent: int | None = None,
    tls: tuple[str, str, str] | None = None,
    allow_open_port: bool = True,
) -> list[str]:
    """Returns the command that runs this script.

    Args:
      worker: Command line of TFF's worker, without its port.
      binary: Path of TFF's worker.
      listener: File descriptor of a listening socket, inherited by the command.
      report: Inherited file descriptor to which the port, and why a namespace was refused, are
        written as JSON; None to print a message to stderr if it was refused.
      core: Core to which the worker is pinned; None for any.
      parent: ID of the process with which the worker ends; None for no such process.
      tls: Paths of the certificate, the key and the authority if peers must show a certificate.
      allow_open_port: Whether to start the worker even if the system refuses a network namespace,
        so that it listens on a port of all interfaces.
    """
    settings = {
        "worker": worker,
        "binary": binary,
        "listener": listener,
        "report": report,
        "core": core,
        "parent": parent,
        "tls": tls,
        "allow_open_port": allow_open_port,
    }
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), json.dumps(settings)]


def open_ports_message(ports: list[int], reason: str) -> str:
    """Returns the message for the user if TFF's workers could not be isolated."""
    named = ", ".join(map(str, ports))
    port, listens = "port", "TFF's worker listens"
    if len(ports) > 1:
        port, listens = "ports", "TFF's workers listen"
    return (
        f"This system refuses a network namespace ({reason}): {listens} on {port} {named} of all "
        f"interfaces, and whoever reaches it can run programs here. Close {port} {named} with a "
        "firewall, or allow user namespaces (docs/security.md)."
    )


def _main() -> None:
    settings = json.loads(sys.argv[1])
    listener = socket.socket(fileno=settings["listener"])
    listener.set_inheritable(False)
    # Imported by path, since site packages are disabled.
    sys.path.append(str(pathlib.Path(__file__).parents[2]))
    from tff_programs.execution import forwarder

    tls = None
    if settings["tls"]:
        import ssl

        tls = forwarder.TlsFiles(*settings["tls"]).context(ssl.Purpose.CLIENT_AUTH)
    reason = _enter_namespace()
    if reason is not None and not settings["allow_open_port"]:
        sys.exit(
            f"fedsup worker: this system refuses a network namespace ({reason}), without which "
            "TFF's worker would listen on a port of all interfaces. Allow user namespaces "
            "(docs/security.md), or give --allow_open_port where a firewall closes the port."
        )
    port = _ENCLOSED_PORT if reason is None else _free_port()
    if settings["report"] is not None:
        told = {"port": port, "reason": reason}
        os.write(settings["report"], json.dumps(told).encode())
        os.close(settings["report"])
    elif reason is not None:
        print(open_ports_message([port], reason), file=sys.stderr, flush=True)
    # After entering the namespace, since a change of credentials clears the signal.
    if settings["parent"] is not None:
        end_with(settings["parent"])
    worker = os.getpid()
    told_by, held = _pipe_that_ends_this()
    if os.fork() == 0:
        os.close(told_by)
        end_with(worker)
        # Ctrl-C also reaches the worker, whose end ends the forwarder.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        forwarder.serve(listener, port, tls)
    os.close(held)
    listener.close()
    if settings["core"] is not None:
        os.sched_setaffinity(0, {settings["core"]})
    name, *arguments = settings["worker"]
    os.execve(settings["binary"], [name, f"--port={port}", *arguments], os.environ)


def _enter_namespace() -> str | None:
    """Moves this process into a new network namespace; returns the reason if it is refused."""
    reason = None
    for flags in _NAMESPACES:
        # Try in a child, since a process cannot leave a namespace whose loopback does not work.
        child = os.fork()
        if child == 0:
            code = errno.EPERM
            try:
                _unshare(flags)
                code = 0
            except OSError as error:
                code = error.errno
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            _unshare(flags)
            return None
        reason = os.strerror(code)
    return reason


def _unshare(flags: int) -> None:
    """Enters new namespaces as the same user and brings up the loopback interface."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")
    if flags & _CLONE_NEWUSER:
        # Linux before 3.19 has no such file and does not need it.
        with contextlib.suppress(FileNotFoundError):
            _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        fcntl.ioctl(probe, _SET_INTERFACE_FLAGS, struct.pack("16sh14x", b"lo", _INTERFACE_UP))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def end_with(parent: int) -> None:
    """Makes the system kill this process when its parent ends for any reason."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _pipe_that_ends_this() -> tuple[int, int]:
    """Returns a pipe; the system kills this process once no process holds the write end.

    This is how the worker ends with its forwarder, although its process then runs TFF's binary.
    """
    read_end, write_end = os.pipe()
    fcntl.fcntl(read_end, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(read_end, fcntl.F_SETFL, os.O_ASYNC)
    os.set_inheritable(read_end, True)
    return read_end, write_end


def _free_port() -> int:
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    _main()
