"""The issuers (`iss`) whose access tokens are accepted. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

OWN_ISSUER = "ai-sdk-server/auth/v1"
_HOSTED = re.compile(r"https://[a-z0-9]+\.supabase\.(?:co|in)", re.ASCII)


class Issuers(Protocol):
    def accept(self, issuer: object, *, has_public_key: bool) -> bool:
        """Whether a token with this `iss` is accepted after its signature was verified. None: it has no `iss`."""
        ...


class OwnIssuer:
    """For the embedded accounts: only the tokens of this server."""

    def accept(self, issuer: object, *, has_public_key: bool) -> bool:  # noqa: ARG002 - the interface
        return issuer == OWN_ISSUER


@dataclass(frozen=True, slots=True)
class ProjectIssuers:
    """For the accounts of a Supabase project, whose tokens name its address at Supabase, a custom domain, or nothing.

    A token that was verified with a public key of the project may name any issuer: only the project has the private
    key. A secret may be shared by several systems, so a token that was verified with it needs one of the `names`, or no
    issuer. If `any_hosted` is set, every address of a project at Supabase is accepted as well.
    """

    names: frozenset[str]
    """Without the path `/auth/v1` and without a slash at the end."""
    any_hosted: bool = False

    def accept(self, issuer: object, *, has_public_key: bool) -> bool:
        if issuer is None:
            return True
        if not isinstance(issuer, str):
            return False
        name = _name(issuer)
        return has_public_key or name in self.names or (self.any_hosted and _HOSTED.fullmatch(name) is not None)


def project_issuers(addresses: Iterable[str], *, reference: str | None = None) -> ProjectIssuers:
    """The issuers of a project with these addresses. Without its `reference`, any project at Supabase is accepted."""
    names = {_name(address) for address in addresses}
    hosted = set() if reference is None else {f"https://{reference}.supabase.{end}" for end in ("co", "in")}
    return ProjectIssuers(frozenset(names | hosted), any_hosted=reference is None)


def _name(issuer: str) -> str:
    return issuer.rstrip("/").removesuffix("/auth/v1").rstrip("/")
