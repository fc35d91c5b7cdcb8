"""Decorators with which routes mark their handlers, and the marks themselves."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
AnyHandler = TypeVar("AnyHandler", bound=Callable[..., Any])

_MARKS = "_marks"


@dataclass(frozen=True, slots=True)
class Marks:
    """Without marks a handler requires a token and a database, and its calls are limited per user."""

    is_public: bool = False
    is_always_up: bool = False
    is_limited_by_address: bool = False
    is_refused_under_overload: bool = False
    is_refresh: Callable[[web.Request], bool] | None = None
    """Whether a request only trades a refresh token."""


_NONE = Marks()


def marks_of(handler: object) -> Marks:
    return getattr(handler, _MARKS, _NONE)


def _mark(handler: AnyHandler, **marks: Any) -> AnyHandler:
    setattr(handler, _MARKS, replace(marks_of(handler), **marks))
    return handler


def public(handler: AnyHandler) -> AnyHandler:
    """Mark a handler that needs no credentials. Every other route requires a token."""
    return _mark(handler, is_public=True)


def always_up(handler: AnyHandler) -> AnyHandler:
    """Mark a handler that works without the database: health, documentation, the console."""
    return _mark(handler, is_public=True, is_always_up=True)


def refused_under_overload(handler: AnyHandler) -> AnyHandler:
    """Mark a handler that creates work: an overloaded process refuses it before its body is read."""
    return _mark(handler, is_refused_under_overload=True)


def limited_by_address(handler: AnyHandler) -> AnyHandler:
    """Mark a handler that accepts passwords or refresh tokens: public, and limited per client address."""
    return _mark(handler, is_public=True, is_limited_by_address=True)


def limited_as_refresh(condition: Callable[[web.Request], bool]) -> Callable[[AnyHandler], AnyHandler]:
    """Mark a handler that is limited by address: requests that meet `condition` only trade a refresh token.

    They have a rate of their own, and 503 beyond it: clients sign their user out after a 429, and retry after a 503.
    """
    return lambda handler: _mark(handler, is_refresh=condition)
