"""Which of the project's keys goes where: the rules of Supabase's gateway, in one place. Pure."""

from dataclasses import dataclass, field

ANON_KEY = "SUPABASE_ANON_KEY"
SERVICE_KEY = "SUPABASE_SERVICE_ROLE_KEY"
_NEW = "sb_"
_NEW_SECRET = "sb_secret_"  # noqa: S105 - how such keys begin

Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Headers for one call, and the name of the setting whose key is in them."""

    headers: Headers = field(repr=False)
    key_name: str = ANON_KEY


@dataclass(frozen=True, slots=True)
class ProjectKeys:
    """Keys in the old form (a JWT) or the new one (`sb_…`). No key is ever decoded; new ones are never a Bearer."""

    anon: str = field(repr=False)
    service: str | None = field(default=None, repr=False)

    def for_stranger(self, address: str | None) -> Credentials:
        """For calls without a user, on behalf of a client at `address`.

        The project's limits count that address only where the call carries a new secret key, and has address
        forwarding switched on; in every other case all users share the address of this server.
        """
        forwarded = {} if address is None else {"Sb-Forwarded-For": address}
        if self.service is not None and self.service.startswith(_NEW_SECRET):
            return Credentials({"apikey": self.service, **forwarded}, SERVICE_KEY)
        return Credentials({"apikey": self.anon, **(forwarded if self.anon.startswith(_NEW_SECRET) else {})})

    def for_user(self, token: str) -> Credentials:
        """For calls as the user whose access token this is."""
        return Credentials({"apikey": self.anon, "Authorization": f"Bearer {token}"})

    def for_anyone(self) -> Credentials:
        """For what the least key may see."""
        return Credentials({"apikey": self.anon})

    def for_admin(self) -> Credentials | None:
        """For the admin interface; None where there is no key for it."""
        if self.service is None:
            return None
        bearer = {} if self.service.startswith(_NEW) else {"Authorization": f"Bearer {self.service}"}
        return Credentials({"apikey": self.service, **bearer}, SERVICE_KEY)
