"""AWS Signature Version 4 as a server checks it: header and query form, hashed bodies and unsigned ones.

The steps are those of Amazon's documentation of the algorithm; tests compare them with botocore's signer.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
MAX_SKEW = timedelta(minutes=15)

_CREDENTIAL = re.compile(r"([^/]+)/(\d{8})/([^/]*)/s3/aws4_request")
_PART = re.compile(r"(\w+)=([^,\s]+)")


class Refused(Exception):
    """The signature is not taken; `code` as in Supabase's answers."""

    def __init__(self, code: str, message: str = "", status: int = 403) -> None:
        super().__init__(code)
        self.code, self.message, self.status = code, message or code, status


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of its own signature."""

    access_key: str
    day: str
    region: str
    time: str
    signed_headers: tuple[str, ...]
    signature: str
    payload_hash: str
    expires_s: int | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """A request as it came over the wire: `path` and `query` raw, header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


def read_claim(request: Signed) -> Claim:
    """From the Authorization header, else from the query."""
    authorization = request.headers.get("authorization")
    if authorization is not None:
        if not authorization.startswith(ALGORITHM + " "):
            raise Refused("AccessDenied", "unknown algorithm")
        parts, headers = dict(_PART.findall(authorization)), request.headers
        return _claim(
            parts.get("Credential", ""),
            time=headers.get("x-amz-date", ""),
            signed=parts.get("SignedHeaders", ""),
            signature=parts.get("Signature", ""),
            payload_hash=headers.get("x-amz-content-sha256", ""),
        )
    values = {unquote(name): unquote(value) for name, value in _pairs(request.query)}
    if values.get("X-Amz-Algorithm") != ALGORITHM:
        raise Refused("AccessDenied", "Missing signature")
    return _claim(
        values.get("X-Amz-Credential", ""),
        time=values.get("X-Amz-Date", ""),
        signed=values.get("X-Amz-SignedHeaders", ""),
        signature=values.get("X-Amz-Signature", ""),
        payload_hash=UNSIGNED,
        expires_s=int(values.get("X-Amz-Expires", "0")),
    )


def verify(request: Signed, *, secret: str, now: datetime, body: bytes | None = None) -> Claim:
    """Raises `Refused`. A signed hash is compared with the `body`, where there is one."""
    claim = read_claim(request)
    moment = datetime.strptime(claim.time, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if claim.expires_s is not None and now > moment + timedelta(seconds=claim.expires_s):
        raise Refused("ExpiredToken", "The provided token has expired.", 400)
    if claim.expires_s is None and abs(now - moment) > MAX_SKEW:
        raise Refused("RequestTimeTooSkewed")
    if "host" not in claim.signed_headers:
        raise Refused("AccessDenied", "host is not signed")
    if not hmac.compare_digest(signature_of(request, claim, secret), claim.signature):
        raise Refused("SignatureDoesNotMatch", "The request signature we calculated does not match.")
    is_hash = re.fullmatch(r"[0-9a-f]{64}", claim.payload_hash) is not None
    if not is_hash and claim.payload_hash != UNSIGNED:
        raise Refused("AccessDenied", "unknown x-amz-content-sha256")
    if is_hash and body is not None and hashlib.sha256(body).hexdigest() != claim.payload_hash:
        raise Refused("XAmzContentSHA256Mismatch", status=400)
    return claim


def signature_of(request: Signed, claim: Claim, secret: str) -> str:
    return _hmac(signing_key(secret, claim), string_to_sign(canonical_request(request, claim), claim)).hex()


def canonical_request(request: Signed, claim: Claim) -> str:
    pairs = [(name, value) for name, value in _pairs(request.query) if name != "X-Amz-Signature"]
    encoded = sorted((_encode(unquote(name)), _encode(unquote(value))) for name, value in pairs)
    return "\n".join([
        request.method,
        quote(unquote(request.path), safe="/-_.~"),
        "&".join(f"{name}={value}" for name, value in encoded),
        *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in claim.signed_headers),
        "",
        ";".join(claim.signed_headers),
        claim.payload_hash,
    ])  # fmt: skip


def string_to_sign(canonical: str, claim: Claim) -> str:
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return "\n".join([ALGORITHM, claim.time, f"{claim.day}/{claim.region}/s3/aws4_request", digest])


def signing_key(secret: str, claim: Claim) -> bytes:
    key = f"AWS4{secret}".encode()
    for step in (claim.day, claim.region, "s3", "aws4_request"):
        key = _hmac(key, step)
    return key


def _claim(
    credential: str, *, time: str, signed: str, signature: str, payload_hash: str, expires_s: int | None = None
) -> Claim:
    found = _CREDENTIAL.fullmatch(credential)
    if found is None or not re.fullmatch(r"\d{8}T\d{6}Z", time) or time[:8] != found[2]:
        raise Refused("AuthorizationHeaderMalformed", status=400)
    return Claim(found[1], found[2], found[3], time, tuple(signed.split(";")), signature, payload_hash, expires_s)


def _pairs(query: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (item.partition("=") for item in query.split("&") if item)]


def _encode(text: str) -> str:
    return quote(text, safe="-_.~")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
