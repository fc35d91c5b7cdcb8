"""The forms of a request that providers accept. A refused request is repeated in another form, which is remembered.

Wordings of refusals were collected from public bug reports of providers and of their clients.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from server.inference.events import Call, Started
from server.inference.protocol.exchange import AnswerReader, FollowUp, OpenReader, Progress
from server.inference.protocol.faults import Failure, UpstreamError
from server.inference.protocol.wire import WireRequest
from server.model_request import Completed, Usage

MAX_TEXTS = 256
"""Texts of one call. The longest vectors in use give an answer below the limit of one document."""
MAX_MODELS = 1000

Steps = list[Progress | Completed | Failure | FollowUp]

_REFUSALS = frozenset({400, 422, 500, 501})
_ROLE = re.compile(r"developer|\broles?\b|should be 'system'", re.IGNORECASE)
_FLAT = re.compile(r"\bstr(?:ing)?s?\b|\b(?:sequence|array|list)\b|content type", re.IGNORECASE)
_TOP_P = re.compile(r"\btop_p\b")


@dataclass(frozen=True, slots=True)
class Form:
    """How a request is sent.

    `has_system_role`: the role `developer` becomes `system`. `is_flat`: the parts of a message become one string, if
    all are text. `is_without_top_p`: a `top_p` of 1, which has no effect, is left out. `max_texts`: texts of one call.
    """

    has_system_role: bool = False
    is_flat: bool = False
    is_without_top_p: bool = False
    max_texts: int = MAX_TEXTS


USUAL = Form()


class KnownForms:
    """The forms that models accepted, the last `MAX_MODELS` of them. "" is the only model of a server."""

    def __init__(self) -> None:
        self._forms: OrderedDict[str, Form] = OrderedDict()

    def find(self, model: str) -> Form:
        return self._forms.get(model, USUAL)

    def record(self, model: str, form: Form) -> None:
        """Add what a call has found out. Another call may have found out something else meanwhile."""
        known = self.find(model)
        form = Form(
            has_system_role=known.has_system_role or form.has_system_role,
            is_flat=known.is_flat or form.is_flat,
            is_without_top_p=known.is_without_top_p or form.is_without_top_p,
            max_texts=min(known.max_texts, form.max_texts),
        )
        if form == known:
            return
        self._forms[model] = form
        self._forms.move_to_end(model)
        if len(self._forms) > MAX_MODELS:
            self._forms.popitem(last=False)


Build = Callable[[Call], WireRequest]


def ask_in_known_form(
    call: Call, model: str, known: KnownForms, *, build: Build, read: OpenReader
) -> tuple[WireRequest, OpenReader]:
    """The request for text in the form that the model accepts. If it is refused, the reader asks in another form.

    That is a part of the same attempt. No form is tried twice, and none after the beginning of an answer.
    """
    asked = _Asked(call, model, known, build, read, known.find(model))
    return build(in_form(call, asked.form)), asked.open_reader


def in_form(call: Call, form: Form) -> Call:
    """The call with the messages and the parameters of the form."""
    data, parameters = call.input_data, call.parameters
    if form.has_system_role or form.is_flat:
        data = {**data, "messages": [_message(message, form) for message in data.get("messages") or ()]}
        data = data if data["messages"] else call.input_data
    if form.is_without_top_p and (parameters.get("top_p") or 0) >= 1:
        parameters = {name: value for name, value in parameters.items() if name != "top_p"}
    return replace(call, input_data=data, parameters=parameters)


def _message(message: Mapping[str, Any], form: Form) -> Mapping[str, Any]:
    if form.has_system_role and message.get("role") == "developer":
        message = {**message, "role": "system"}
    parts = message.get("content")
    if form.is_flat and isinstance(parts, list) and all(part.get("type") == "text" for part in parts):
        message = {**message, "content": "\n".join(part["text"] for part in parts)}  # as vLLM joins them
    return message


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request in one of its forms."""

    call: Call
    model: str
    known: KnownForms
    build: Build
    read: OpenReader
    form: Form

    def open_reader(self, status: int, headers: Mapping[str, str]) -> AnswerReader:
        return _FormReader(self.read(status, headers), self)

    def after(self, error: UpstreamError) -> FollowUp | None:
        """The same request in a form that the refusal asks for, if there is another one."""
        if error.status not in _REFUSALS:
            return None
        form = replace(
            self.form,
            has_system_role=self.form.has_system_role or _ROLE.search(error.message) is not None,
            is_flat=self.form.is_flat or _FLAT.search(error.message) is not None,
            is_without_top_p=self.form.is_without_top_p or _TOP_P.search(error.message) is not None,
        )
        changed = in_form(self.call, form)
        if changed == in_form(self.call, self.form):
            return None
        return FollowUp(self.build(changed), replace(self, form=form).open_reader)


class _FormReader:
    """Implements `AnswerReader` with the reader of the answer itself."""

    def __init__(self, reader: AnswerReader, asked: _Asked) -> None:
        self._reader = reader
        self._asked = asked
        self._has_begun = False

    @property
    def grace_s(self) -> float | None:
        return self._reader.grace_s

    @property
    def usage(self) -> Usage:
        return self._reader.usage

    @property
    def is_over(self) -> bool:
        return self._reader.is_over

    def feed(self, chunk: bytes) -> list[Progress]:
        events = self._reader.feed(chunk)
        self._note(events)
        return events

    def finish(self, *, cut: UpstreamError | None = None) -> Steps:
        steps = self._reader.finish(cut=cut)
        self._note(steps)
        last = steps[-1]
        if self._has_begun or not isinstance(last, Failure):
            return steps
        follow_up = self._asked.after(last.error)
        return steps if follow_up is None else [*steps[:-1], follow_up]

    def _note(self, steps: list[Progress] | Steps) -> None:
        if not self._has_begun and any(isinstance(step, Started) for step in steps):
            self._has_begun = True
            self._asked.known.record(self._asked.model, self._asked.form)
