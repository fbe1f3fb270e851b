"""The address that a server listens on."""

import ipaddress
import re
from typing import NamedTuple

from tflite.together.address import is_loopback


class Address(NamedTuple):
    """Host and port on which a server listens.

    Attributes:
      host: Host name or IP address of the interface.
      port: Port, from 0; 0 for any free port.
    """

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach the address."""
        return is_loopback(self.host)

    @property
    def is_any(self) -> bool:
        """True for a wildcard address such as `0.0.0.0`, which no client can connect to."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def url(self, scheme: str, port: int) -> str:
        """Returns the URL of the address, with the port that the server listens on."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{port}"


def parse_address(text: str, flag: str) -> Address:
    """Reads `HOST:PORT`, with an IPv6 host in brackets.

    Args:
      text: Text of the address.
      flag: Name of the flag, for the error message.

    Raises:
      ValueError: If the text has another form.
    """
    host, colon, port = text.rpartition(":")
    is_host = re.fullmatch(r"[^/:\[\]]+|\[[^/\[\]]+\]", host) is not None
    if not colon or not is_host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"--{flag}: expected HOST:PORT such as 127.0.0.1:8080, received {text!r}.")
    return Address(host.strip("[]"), int(port))
