"""The names in `Host` that are answered.

A page of another site can let its own name resolve to this machine (DNS rebinding). Its requests then have the server's
origin in the eyes of the browser, but they name the other site in `Host`.
"""

import functools
import re
from collections.abc import Iterable
from ipaddress import ip_address

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:]*)(?::[0-9]*)?", re.IGNORECASE)


class AllowedHosts:
    """Names, and patterns such as `*.example.com` for all subdomains; `*` allows every name.

    Addresses are always allowed, because no other site can have one as its name. So is a request without a name.
    """

    def __init__(self, names: Iterable[str]) -> None:
        names = [name.lower() for name in names]
        self._is_any = "*" in names
        self._names = frozenset(names)
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))
        self._find = functools.lru_cache(256)(self._accepts)

    def accepts(self, host: str) -> bool:
        """`host` is the value of the header."""
        return self._is_any or self._find(host)

    def _accepts(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].lower().rstrip(".")
        return not name or name in self._names or name.endswith(self._suffixes) or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
