"""The server that a device takes part with: its address, token and trusted certificate."""

import dataclasses
import ipaddress
import os
import re
import ssl
import urllib.parse

from fedsup_tf.files.json_schema import is_hash
from fedsup_tf.files.reading import open_regular
from tflite.together.errors import FederationError

# Scheme, host, port and path. All clients parse them alike: `ServerAddress` of the Java library has
# the same pattern.
_ADDRESS = re.compile(
    r"(https?)://([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    r"(?::([0-9]{1,5}))?((?:/[A-Za-z0-9._~%-]*)*)"
)
_MAX_CHARACTERS = 200


@dataclasses.dataclass(frozen=True)
class ServerAddress:
    """A server, as described by its enrolment code.

    Attributes:
      url: URL of the server, up to `/v1/`.
      token: The enrolment token; None for devices that are already enrolled.
      certificate: SHA-256 of the only certificate that is accepted, in hexadecimal digits; None to
        verify the certificate's authority.
      authority: PEM file of the only authority whose certificates are accepted; None for the
        system's authorities.
    """

    url: str
    token: str | None = None
    certificate: str | None = None
    authority: str | os.PathLike | None = None

    def __post_init__(self):
        split_address(self.url, "The server")
        if self.certificate is not None and not is_hash(self.certificate):
            raise FederationError(
                "The server's certificate: expected its SHA-256 as 64 lower-case hexadecimal "
                f"digits, received {self.certificate!r}. Copy it from the server's code."
            )

    @property
    def host(self) -> str:
        """Host and port of the URL."""
        return urllib.parse.urlsplit(self.url).netloc

    @property
    def prefix(self) -> str:
        """Path of the URL, which a proxy may need."""
        return urllib.parse.urlsplit(self.url).path.rstrip("/")

    def tls(self) -> ssl.SSLContext | None:
        """Returns the TLS context; None for plain HTTP.

        Raises:
          FederationError: If the authority's file is not a certificate.
        """
        if urllib.parse.urlsplit(self.url).scheme == "http":
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            # The hash is compared after the handshake, before anything is sent.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.authority is not None:
            try:
                open_regular(self.authority, "an authority's certificate in PEM").close()
                context.load_verify_locations(cafile=self.authority)
            except (OSError, ValueError) as error:
                raise FederationError(
                    f"{os.fspath(self.authority)!r}: expected an authority's certificate in PEM, "
                    f"received something else ({error}). Give the file that signed the server's."
                ) from error
        else:
            context.load_default_certs()
        return context


def split_address(url: str, name: str) -> urllib.parse.SplitResult:
    """Returns the parts of a URL at which devices may reach a server.

    Args:
      url: `https` URL, or `http` URL on this machine, with a host and optionally a port and a path.
      name: Name of the address, which begins the error message.

    Raises:
      FederationError: If the URL has another form.
    """
    found = _ADDRESS.fullmatch(url) if len(url) <= _MAX_CHARACTERS else None
    is_address = found is not None and (found[3] is None or 0 < int(found[3]) < 65536)
    try:
        parts = urllib.parse.urlsplit(url if is_address else "")
    except ValueError:
        # The brackets do not enclose an IPv6 address.
        is_address = False
    if not is_address:
        raise FederationError(
            f"{name}: expected an address such as https://example.org:8443 (a host, perhaps a port "
            f"from 1 to 65535 and a path, nothing else), received {url!r}. Copy it from what "
            "`fedsup serve` prints, or correct it."
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise FederationError(
            f"{name}: expected an address with https beyond this machine, received {url!r}. The "
            "device's key would travel in the clear."
        )
    return parts


def parse_link(text: str) -> ServerAddress:
    """Parses the text of an enrolment code.

    Args:
      text: `fedsup://enrol?server=...&token=...&certificate=...`, or only the server's URL.

    Raises:
      FederationError: If the text is neither.
    """
    if not text.startswith("fedsup:"):
        return ServerAddress(text)
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        # An opening bracket without a closing one.
        parts = urllib.parse.urlsplit("")
    fields = dict(urllib.parse.parse_qsl(parts.query))
    if parts.netloc != "enrol" or not {"server", "token"} <= fields.keys():
        raise FederationError(
            "The server's code: expected fedsup://enrol?server=...&token=..., received "
            f"{text!r}. Copy the whole line that the server prints, in quotes."
        )
    return ServerAddress(fields["server"], fields["token"], fields.get("certificate"))


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach a host, given by its name or IP address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
