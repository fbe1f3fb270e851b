"""The code with which a phone enrols: a server's address and token as a link, and as a picture."""

import io
import urllib.parse

import segno


def enrolment_link(server: str, token: str, certificate: str | None) -> str:
    """Returns the text of the code.

    Args:
      server: The address before `/v1/`.
      token: The enrolment token.
      certificate: SHA-256 of the server's certificate, where no authority signed it.
    """
    fields = {"server": server, "token": token}
    if certificate is not None:
        fields["certificate"] = certificate
    return f"fedsup://enrol?{urllib.parse.urlencode(fields)}"


def terminal_code(link: str) -> str:
    """Returns the code as a QR code in characters for a terminal."""
    out = io.StringIO()
    segno.make(link, error="m", micro=False).terminal(out, compact=True)
    return out.getvalue()
