"""A connection that goes to an IP address is still a connection to the name: its certificate is checked against it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from squorflow.enrichment.gemini.bounded_client import BoundedClient
from squorflow.enrichment.gemini.wire import GeminiSettings
from squorflow.errors import NetworkError
from squorflow.products.outside import outside_client
from support.image_server import Answer, ImageServer
from support.outside import Resolver

NAME = "pictures.example"


def write_certificate(folder: Path, name: str) -> Path:
    """Make a key and a certificate for `name` that vouches for itself; return the file that holds both."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(tz=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return write_certificate(tmp_path, NAME)


@pytest.fixture
def seen() -> list[str | None]:
    return []


@pytest.fixture
def server(certificate: Path, seen: list[str | None], monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    monkeypatch.setattr(certifi, "where", lambda: str(certificate))
    with ImageServer(tls=context) as running:
        running.serve("/a", Answer(body=b"hello"))
        yield running


def ask(server: ImageServer, name: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr("socket.getaddrinfo", Resolver({name: [["127.0.0.1"]]}))
    with outside_client(allow={name.rstrip(".")} | {name}) as client:
        return client.get(f"https://{name}:{server.host.split(':')[1]}/a").content


@pytest.mark.parametrize("name", [NAME, f"{NAME}."])
def test_the_certificate_of_the_name_is_accepted(
    name: str, server: ImageServer, seen: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(server, name, monkeypatch) == b"hello"
    assert seen == [NAME]


def test_the_certificate_of_another_name_is_refused(server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate"):
        ask(server, "other.example", monkeypatch)
    assert not server.requests


def test_an_address_without_a_name_is_checked_against_its_certificate_too(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate"):
        ask(server, "127.0.0.1", monkeypatch)
    assert not server.requests


DRIP = Answer(body=b"x" * 5_000, drip=True)
SECONDS = timedelta(seconds=2)


def test_a_drip_over_tls_is_cut_at_its_deadline(server: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole drip would take 100 seconds, and is never silent for one."""
    server.serve("/a", DRIP)
    monkeypatch.setattr("socket.getaddrinfo", Resolver({NAME: [["127.0.0.1"]]}))
    with outside_client(allow={NAME}, total_timeout=SECONDS) as client, pytest.raises(httpx.ReadTimeout):
        client.get(f"https://{NAME}:{server.host.split(':')[1]}/a")
    assert server.requests == {"/a": 1}


def test_the_client_under_the_gemini_sdks_cuts_it_too_and_trusts_whom_ssl_cert_file_names(
    server: ImageServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve("/a", DRIP)
    monkeypatch.setattr("socket.getaddrinfo", Resolver({NAME: [["127.0.0.1"]]}))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    settings = GeminiSettings(api_key="key-1", model="m", temperature=0, max_output_tokens=1_000, timeout=SECONDS)
    with BoundedClient(settings) as client, pytest.raises(NetworkError, match="did not answer in time"):
        client.get(f"https://{NAME}:{server.host.split(':')[1]}/a")
    assert server.requests == {"/a": 1}
