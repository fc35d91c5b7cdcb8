"""TLS on the way to the database: what is checked, and what an operator reads when it fails."""

import datetime as dt
import ipaddress
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from server.pooling import Pooling
from server.storage.database import Database, explain_refusal
from tests.pgbouncer import PgBouncer, running_pgbouncer


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of this test session."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(self, *names: x509.GeneralName) -> tuple[bytes, bytes]:
        """Key and certificate of a server, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _certificate("server", issuer=self.certificate.subject, key=key)
        signed = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(
            self.key, hashes.SHA256()
        )
        return (
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            signed.public_bytes(Encoding.PEM),
        )


def _certificate(name: str, *, issuer: x509.Name | None, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )


def _authority(name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _certificate(name, issuer=None, key=key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    return Authority(key, builder.sign(key, hashes.SHA256()))


LOCAL = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
AUTHORITY = _authority("the database's")
STRANGER = _authority("another")


@pytest.fixture
def root_cert(tmp_path: Path) -> Path:
    path = tmp_path / "ca.crt"
    path.write_bytes(AUTHORITY.pem)
    return path


@pytest.fixture
def serve_with(database: str) -> Iterator[Callable[[tuple[bytes, bytes] | None], PgBouncer]]:
    with ExitStack() as stack:
        yield lambda certificate: stack.enter_context(running_pgbouncer(database, "session", certificate=certificate))


Serve = Callable[["tuple[bytes, bytes] | None"], PgBouncer]


def _pooled(url: str, root_cert: Path | None = None) -> Database:
    return Database(url, pooling=Pooling.SESSION, root_cert=root_cert)


async def _refusal(database: Database) -> str:
    with pytest.raises(Exception) as failure:  # noqa: PT011 - asyncpg and ssl share no class
        await database.connect()
    refusal = explain_refusal(failure.value)
    assert refusal is not None, repr(failure.value)
    assert "\n" not in refusal
    return refusal


async def test_a_certificate_of_the_named_authority_is_accepted(
    serve_with: Serve, database: str, root_cert: Path
) -> None:
    url = serve_with(AUTHORITY.issue(LOCAL)).through(database)
    connection = await _pooled(url, root_cert).connect()
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_the_same_by_the_options_of_the_url(serve_with: Serve, database: str, root_cert: Path) -> None:
    url = serve_with(AUTHORITY.issue(LOCAL)).through(database)
    connection = await _pooled(f"{url}?sslmode=verify-full&sslrootcert={root_cert}").connect()
    await connection.close()


async def test_require_alone_encrypts_without_asking_who_it_is(serve_with: Serve, database: str) -> None:
    url = serve_with(STRANGER.issue()).through(database)
    connection = await _pooled(f"{url}?sslmode=require").connect()
    await connection.close()


async def test_another_authority_is_one_line(serve_with: Serve, database: str, root_cert: Path) -> None:
    url = serve_with(STRANGER.issue(LOCAL)).through(database)
    assert "DATABASE_SSL_ROOT_CERT" in await _refusal(_pooled(url, root_cert))


async def test_a_certificate_for_another_host_is_one_line(serve_with: Serve, database: str, root_cert: Path) -> None:
    url = serve_with(AUTHORITY.issue(x509.DNSName("db.example.com"))).through(database)
    assert "not for this host" in await _refusal(_pooled(url, root_cert))


async def test_a_server_without_tls_is_one_line(serve_with: Serve, database: str, root_cert: Path) -> None:
    url = serve_with(None).through(database)
    assert "speaks no TLS" in await _refusal(_pooled(url, root_cert))
    assert "speaks no TLS" in await _refusal(_pooled(f"{url}?sslmode=require"))
