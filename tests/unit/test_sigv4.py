"""The check of signatures that the S3 fake uses, against the signer of botocore."""

from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.fakes.sigv4 import Refused, Signed, verify

KEY, SECRET, REGION = "0123456789abcdef", "the secret of the key", "eu-central-1"
HOST = "https://abc.storage.supabase.co"
CASES = [
    ("GET", "/storage/v1/s3/files/a/b.png", b""),
    ("PUT", "/storage/v1/s3/files/a/b.png", b"some bytes"),
    ("GET", "/storage/v1/s3/files?list-type=2&prefix=a%2Fb&delimiter=%2F", b""),
    ("POST", "/storage/v1/s3/files/a.png?uploads=", b""),
    ("PUT", "/storage/v1/s3/files/a.png?partNumber=2&uploadId=x%2By%3D", b"part"),
    ("DELETE", "/storage/v1/s3/files/with%20space%20and%20%27quote%27%40%3D%2B.png", b""),
]


def signed(method: str, path: str, body: bytes, *, by_query: bool, secret: str = SECRET) -> Signed:
    """The request as botocore signs and sends it; a URL is signed without the body."""
    body = b"" if by_query else body
    request = AWSRequest(method=method, url=HOST + path, data=body, headers={"content-type": "image/png"})
    if not by_query:
        request.context["payload_signing_enabled"] = True
    kind = S3SigV4QueryAuth if by_query else S3SigV4Auth
    kind(Credentials(KEY, secret), "s3", REGION).add_auth(request)
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    headers = {name.lower(): _text(value) for name, value in prepared.headers.items()} | {"host": parts.netloc}
    return Signed(method, parts.path, parts.query, headers)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize("by_query", [False, True], ids=["header", "query"])
@pytest.mark.parametrize(("method", "path", "body"), CASES)
def test_what_botocore_signs_is_taken(method: str, path: str, body: bytes, *, by_query: bool) -> None:
    claim = verify(signed(method, path, body, by_query=by_query), secret=SECRET, now=datetime.now(UTC), body=body)
    assert (claim.access_key, claim.region) == (KEY, REGION)


@pytest.mark.parametrize("by_query", [False, True], ids=["header", "query"])
@pytest.mark.parametrize("change", ["secret", "method", "path", "query", "host", "prefix"])
def test_whatever_is_changed_is_noticed(change: str, *, by_query: bool) -> None:
    real = signed("GET", "/storage/v1/s3/files/a.png", b"", by_query=by_query)
    forged = {
        "secret": signed("GET", "/storage/v1/s3/files/a.png", b"", by_query=by_query, secret="another"),
        "method": Signed("DELETE", real.path, real.query, real.headers),
        "path": Signed(real.method, "/storage/v1/s3/files/b.png", real.query, real.headers),
        "query": Signed(real.method, real.path, real.query + "&versionId=1", real.headers),
        "host": Signed(real.method, real.path, real.query, {**real.headers, "host": "evil.example"}),
        "prefix": Signed(real.method, "/files/a.png", real.query, real.headers),
    }[change]
    with pytest.raises(Refused, match="SignatureDoesNotMatch"):
        verify(forged, secret=SECRET, now=datetime.now(UTC), body=b"")


def test_another_body_is_noticed() -> None:
    real = signed("PUT", "/storage/v1/s3/files/a.png", b"this", by_query=False)
    with pytest.raises(Refused, match="XAmzContentSHA256Mismatch"):
        verify(real, secret=SECRET, now=datetime.now(UTC), body=b"that")


@pytest.mark.parametrize(
    ("by_query", "code"), [(False, "RequestTimeTooSkewed"), (True, "ExpiredToken")], ids=["header", "query"]
)
def test_what_is_too_old_is_refused(code: str, *, by_query: bool) -> None:
    real = signed("GET", "/storage/v1/s3/files/a.png", b"", by_query=by_query)
    with pytest.raises(Refused, match=code):
        verify(real, secret=SECRET, now=datetime.now(UTC) + timedelta(hours=2), body=b"")


def test_a_request_without_a_signature_is_refused() -> None:
    with pytest.raises(Refused, match="AccessDenied"):
        verify(Signed("GET", "/storage/v1/s3/files/a.png", "", {}), secret=SECRET, now=datetime.now(UTC), body=b"")
