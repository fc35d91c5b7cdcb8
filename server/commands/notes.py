"""Notes about settings that work and do not do what was meant, or put money or data at risk.

The start logs them, and `doctor` prints them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from server.auth.supabase import NO_SERVICE_KEY_FIX
from server.commands.setting_names import find_unknown, find_unread, given_names, names_in_file
from server.limits.rates import find_client_ip
from server.settings import Backend, Settings, SignUps

_OPEN_SIGN_UPS = (
    "Anyone who reaches this server can sign up and use the model at your cost: set SIGN_UPS=invite, or HOST=127.0.0.1."
)


@dataclass(frozen=True, slots=True)
class Note:
    """`event` names it in the log; `text` says it to a person, with the remedy."""

    event: str
    text: str


def notes_of(settings: Settings) -> Iterator[Note]:
    for name in settings.without_effect():
        yield Note("setting_without_effect", f"{name} has no effect with the other settings.")
    unread = find_unread(given_names())
    for name, ours in unread.items():
        yield Note("name_without_effect", f"{name} is not read: set {ours}.")
    if unknown := find_unknown(names_in_file()) - unread.keys():
        yield Note("unknown_names", f".env has names that this server does not read: {', '.join(sorted(unknown))}.")
    if settings.supabase_url is not None and settings.supabase_service_role_key is None:
        yield Note("accounts_cannot_be_deleted", NO_SERVICE_KEY_FIX)
    is_open = settings.sign_up_policy is SignUps.OPEN
    if is_open and settings.backend is not Backend.OFFLINE and not _is_local(settings.host):
        yield Note("sign_ups_open", _OPEN_SIGN_UPS)


def _is_local(host: str) -> bool:
    address = find_client_ip((), host, ())
    return host == "localhost" or (address is not None and address.is_loopback)
