"""TLS certificates: supplied by the operator, or self-signed by the server."""

import datetime
import hashlib
import ipaddress
import os
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedsup_tf.files.atomic_write import make_folder, write_bytes
from fedsup_tf.files.reading import open_regular, read_text

_DAYS = 825


class CertificateFiles(NamedTuple):
    """PEM files of a server's certificate and key.

    Attributes:
      certificate: Path of the certificate, followed by any intermediate certificates.
      key: Path of its private key, not encrypted.
    """

    certificate: str
    key: str

    def context(self) -> ssl.SSLContext:
        """Returns the TLS context of a server.

        Raises:
          ValueError: If the files are not a certificate and its key.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            for path in self:
                open_regular(path, "PEM").close()
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"Expected a certificate in PEM in {self.certificate!r} and its key, not "
                f"encrypted, in {self.key!r}, received something else ({error}). Give the files "
                "that belong together."
            ) from error
        return context

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the certificate in DER form, as hexadecimal digits."""
        text = read_text(self.certificate, "a certificate in PEM")
        end = "-----END CERTIFICATE-----"
        first = text[text.index("-----BEGIN") : text.index(end) + len(end)]
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()


def make_certificate(folder: str, names: Sequence[str], now: datetime.datetime) -> CertificateFiles:
    """Creates a self-signed certificate unless there is one in the folder.

    Args:
      folder: Folder of the certificate and its key.
      names: Host names and IP addresses at which devices reach the server.
      now: Current time; the certificate is valid from one day before it.

    Raises:
      ValueError: If the existing certificate lacks one of the names.
    """
    files = CertificateFiles(
        os.path.join(folder, "certificate.pem"), os.path.join(folder, "key.pem")
    )
    if os.path.exists(files.certificate):
        found = _names(files.certificate)
        if not set(names) <= found:
            raise ValueError(
                f"{files.certificate!r}: expected a certificate of {', '.join(names)}, received "
                f"one of {', '.join(sorted(found))}. Remove both files for a new one, which "
                "devices must be told of by a new code."
            )
        return files
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    make_folder(folder)
    os.chmod(folder, 0o700)
    write_bytes(
        files.key,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    os.chmod(files.key, 0o600)
    write_bytes(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    return files


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names(path: str) -> set[str]:
    text = read_text(path, "a certificate in PEM")
    certificate = x509.load_pem_x509_certificate(text.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}
