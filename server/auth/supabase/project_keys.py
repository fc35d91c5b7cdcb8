"""Chooses the project's key for each kind of call, by the rules of Supabase's gateway. Pure."""

from dataclasses import dataclass, field

ANON_KEY = "SUPABASE_ANON_KEY"
SERVICE_KEY = "SUPABASE_SERVICE_ROLE_KEY"
_NEW = "sb_"
_NEW_SECRET = "sb_secret_"  # noqa: S105 - a prefix, not a secret

Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class CallCredentials:
    """Headers for one call, and the name of the setting that holds their key."""

    headers: Headers = field(repr=False)
    key_name: str = ANON_KEY


@dataclass(frozen=True, slots=True)
class ProjectKeys:
    """Keys in the old form (a JWT) or the new one (`sb_…`). A new key is never sent as a bearer token."""

    anon: str = field(repr=False)
    service: str | None = field(default=None, repr=False)

    def for_stranger(self, address: str | None) -> CallCredentials:
        """For calls without a user token, on behalf of a client at `address`.

        The project's rate limits use that address only with a new secret key and with address forwarding switched on.
        Otherwise all users share the address of this server.
        """
        forwarded = {} if address is None else {"Sb-Forwarded-For": address}
        if self.service is not None and self.service.startswith(_NEW_SECRET):
            return CallCredentials({"apikey": self.service, **forwarded}, SERVICE_KEY)
        return CallCredentials({"apikey": self.anon, **(forwarded if self.anon.startswith(_NEW_SECRET) else {})})

    def for_user(self, token: str) -> CallCredentials:
        """For calls with a user's access token."""
        return CallCredentials({"apikey": self.anon, "Authorization": f"Bearer {token}"})

    def for_anyone(self) -> CallCredentials:
        """For public data."""
        return CallCredentials({"apikey": self.anon})

    def for_admin(self) -> CallCredentials | None:
        """For the admin API; None without a service key."""
        if self.service is None:
            return None
        bearer = {} if self.service.startswith(_NEW) else {"Authorization": f"Bearer {self.service}"}
        return CallCredentials({"apikey": self.service, **bearer}, SERVICE_KEY)
