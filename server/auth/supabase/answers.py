"""Reads the sessions and users in successful answers of Supabase Auth, without trust in their shape. Pure."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from server.auth.accounts import Session, User
from server.model_request import UserId

_DEFAULT_LIFE_S = 3600
_MAX_TIME = 2**53


class UnexpectedAnswer(Exception):
    """The answer is not one of Supabase Auth."""


def read_object(body: bytes | None) -> dict[str, Any]:
    """The JSON object in a body. Raises `UnexpectedAnswer`."""
    try:
        data = orjson.loads(body or b"")
    except orjson.JSONDecodeError:
        raise UnexpectedAnswer from None
    if not isinstance(data, dict):
        raise UnexpectedAnswer
    return data


def read_session(data: dict[str, Any], *, now: float) -> Session:
    """A session. `now` is in seconds since the epoch, for old servers that send no `expires_at`.

    Tokens are opaque: nothing is assumed about their length or form. Raises `UnexpectedAnswer`.
    """
    life_s = _seconds(data.get("expires_in"), otherwise=_DEFAULT_LIFE_S)
    return Session(
        user=read_user(data.get("user")),
        access_token=_text(data.get("access_token")),
        refresh_token=_text(data.get("refresh_token")),
        expires_in=life_s,
        expires_at=_seconds(data.get("expires_at"), otherwise=int(now) + life_s),
    )


def read_user(data: object) -> User:
    """The four fields of a user that the API shows. Raises `UnexpectedAnswer`."""
    if not isinstance(data, dict):
        raise UnexpectedAnswer
    email, signed_in = data.get("email"), data.get("last_sign_in_at")
    try:
        user_id = UUID(_text(data.get("id")))
    except ValueError:
        raise UnexpectedAnswer from None
    return User(
        id=UserId(user_id),
        email=email if isinstance(email, str) else "",
        created_at=_time(data.get("created_at")),
        last_sign_in_at=None if signed_in is None else _time(signed_in),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise UnexpectedAnswer
    return value


def _seconds(value: object, *, otherwise: int) -> int:
    if type(value) is int and 0 <= value < _MAX_TIME:
        return value
    return otherwise


def _time(value: object) -> datetime:
    try:
        time = datetime.fromisoformat(_text(value))
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UnexpectedAnswer from None
