"""Tests of TLS: the server makes a certificate once, and clients pin its hash."""

import datetime
import hashlib
import os
import ssl
import urllib.parse

import pytest
from gateway import Phone, Served

from tff_programs.gateway.certificates import CertificateFiles, make_certificate
from tff_programs.gateway.enrolment_code import enrolment_link, terminal_code

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def files(tmp_path):
    return make_certificate(tmp_path / "tls", ["localhost", "127.0.0.1"], NOW)


def trusting(files):
    return ssl.create_default_context(cafile=files.certificate)


def test_a_phone_that_trusts_the_certificate_takes_part(tmp_path, files):
    with Served(tmp_path, tls=files.context()) as served:
        phone = Phone(served.url, tls=trusting(files)).enrol(served.token)
        assert "task" in phone.check_in()
        with pytest.raises(ssl.SSLCertVerificationError):
            Phone(served.url).request("GET", "/health")
        port = served.url.rpartition(":")[2]
        shown = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", int(port))))
        assert hashlib.sha256(shown).hexdigest() == files.fingerprint()


def test_a_foreign_certificate_is_not_trusted(tmp_path, files):
    other = make_certificate(tmp_path / "other", ["localhost", "127.0.0.1"], NOW)
    with Served(tmp_path, tls=files.context()) as served:
        with pytest.raises(ssl.SSLCertVerificationError):
            Phone(served.url, tls=trusting(other)).request("GET", "/health")


def test_a_certificate_is_made_once(tmp_path, files):
    again = make_certificate(tmp_path / "tls", ["127.0.0.1"], NOW)
    assert again.fingerprint() == files.fingerprint()
    with pytest.raises(ValueError, match=r"certificate of example\.org, received one of"):
        make_certificate(tmp_path / "tls", ["example.org"], NOW)


def test_the_key_is_its_owners_alone(files):
    assert os.stat(files.key).st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["certificate", "key"])
def test_files_that_are_none_are_refused(tmp_path, files, damage):
    (tmp_path / "broken.pem").write_text("nothing")
    broken = files._replace(**{damage: str(tmp_path / "broken.pem")})
    with pytest.raises(ValueError, match="Expected a certificate in PEM"):
        broken.context()
    with pytest.raises(ValueError, match="Expected a certificate in PEM"):
        CertificateFiles(files.certificate, str(tmp_path / "missing.pem")).context()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="Expected a certificate in PEM"):
        CertificateFiles(files.certificate, str(tmp_path / "pipe")).context()


def test_the_link_of_the_code_can_be_read_again():
    link = enrolment_link("https://[::1]:8443", "a-b_c", "f" * 64)
    parts = urllib.parse.urlsplit(link)
    assert (parts.scheme, parts.netloc) == ("fedsup", "enrol")
    fields = dict(urllib.parse.parse_qsl(parts.query, strict_parsing=True))
    assert fields == {"server": "https://[::1]:8443", "token": "a-b_c", "certificate": "f" * 64}
    assert "certificate" not in enrolment_link("https://a", "b", None)
    assert terminal_code(link).count("\n") > 15
