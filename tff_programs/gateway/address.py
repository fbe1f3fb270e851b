"""The address that a server listens on, and what it may do there."""

import ipaddress
import re
from typing import NamedTuple


class Address(NamedTuple):
    """Host and port on which a server listens.

    Attributes:
      host: Name or number of the interface.
      port: From 0; 0 for any that is free.
    """

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Returns whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_any(self) -> bool:
        """Returns whether it stands for all addresses of this machine, and is none to call."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def url(self, scheme: str, port: int) -> str:
        """Returns the address as a URL, with the port that is listened on."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{port}"


def parse_address(text: str, flag: str) -> Address:
    """Reads `HOST:PORT`, with an IPv6 host in brackets.

    Args:
      text: The address.
      flag: The flag's name, for the error.

    Raises:
      ValueError: If it is something else.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"--{flag}: expected HOST:PORT such as 127.0.0.1:8080, received {text!r}.")
    return Address(host.strip("[]"), int(port))
