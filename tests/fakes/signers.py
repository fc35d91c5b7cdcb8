"""Keys that sign tokens by hand, so that nothing keeps a test from making a bad one."""

import base64
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key; `jwk` is its public half as a project publishes it, `pem` the same in PEM."""

    algorithm: str
    sign: Callable[[bytes], bytes] = field(repr=False)
    kid: str | None = None
    jwk: Json | None = None
    pem: bytes = b""

    @property
    def header(self) -> Json:
        return {"alg": self.algorithm, "typ": "JWT"} | ({} if self.kid is None else {"kid": self.kid})

    def token(self, claims: Json | str | bytes, /, **header: Any) -> str:
        """A signed token with these claims, or with any other text or bytes for a payload; None removes a header."""
        return self.seal(json.dumps({k: v for k, v in (self.header | header).items() if v is not None}), claims)

    def seal(self, header: str, claims: Json | str | bytes, /) -> str:
        """With a header as it is written here."""
        text = json.dumps(claims) if isinstance(claims, dict) else claims
        payload = text.encode() if isinstance(text, str) else text
        content = f"{encode(header.encode())}.{encode(payload)}"
        return f"{content}.{encode(self.sign(content.encode()))}"


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def secret_signer(secret: str | bytes, *, kid: str | None = None) -> Signer:
    """HS256."""
    key = secret.encode() if isinstance(secret, str) else secret
    return Signer("HS256", lambda content: hmac.digest(key, content, "sha256"), kid)


def ec_signer(kid: str) -> Signer:
    """ES256, with a key of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = key.public_key().public_numbers()

    def sign(content: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(content, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    x, y = (encode(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))  # RFC 7518, 6.2.1.2: never shorter
    jwk = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
    return Signer("ES256", sign, kid, _published(jwk, kid, "ES256"), _pem(key.public_key()))


def rsa_signer(kid: str, *, bits: int = 2048) -> Signer:
    """RS256, with a key of its own."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    numbers = key.public_key().public_numbers()
    jwk = {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
    return Signer(
        "RS256",
        lambda content: key.sign(content, padding.PKCS1v15(), SHA256()),
        kid,
        _published(jwk, kid, "RS256"),
        _pem(key.public_key()),
    )


def _published(jwk: Json, kid: str, algorithm: str) -> Json:
    """With the members that Supabase gives its keys."""
    return jwk | {"kid": kid, "alg": algorithm, "use": "sig", "key_ops": ["verify"], "ext": True}


def _number(value: int) -> str:
    return encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _pem(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
