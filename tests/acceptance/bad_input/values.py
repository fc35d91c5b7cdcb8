"""Bodies that can be read and say what is not taken: numbers, types, unknown fields."""

from typing import Any

from tests.acceptance.bad_input.case import (
    CANARY,
    SYNTAX,
    Case,
    account,
    create,
    invalid,
    malformed,
    raw_parameter,
    sign_in,
    text2text,
    with_input,
    with_parameters,
)


def _parameter(name: str, value: Any) -> Case:
    return invalid(f"{name} {value}", create(with_parameters(**{name: value})), f"parameters.{name}")


def _spelt(name: str, parameter: str, value: bytes) -> Case:
    return invalid(name, create(raw_parameter(parameter, value)), f"parameters.{parameter}")


def _generation(name: str, value: Any) -> Case:
    body = text2text(model_type="text-generation", parameters={name: value})
    return invalid(f"{name} {value}", create(body), f"parameters.{name}")


NUMBERS = (
    _parameter("temperature", -0.1),
    _parameter("temperature", 2.1),
    _parameter("top_p", -0.1),
    _parameter("top_p", 1.01),
    _parameter("frequency_penalty", -3),
    _parameter("presence_penalty", 3),
    _parameter("max_tokens", 0),
    _parameter("max_tokens", -1),
    _parameter("max_tokens", 10_000_001),
    _parameter("max_tokens", 1.5),
    _parameter("max_tokens", 2**31),
    _parameter("max_tokens", 2**63),
    _parameter("seed", 2**64),
    _parameter("seed", -(2**63) - 1),
    _parameter("seed", 1e300),
    _spelt("integer of 30 digits", "max_tokens", b"9" * 30),
    _spelt("integer with a fraction", "max_tokens", b"5.0"),
    _spelt("integer with an exponent", "max_tokens", b"1e1"),
    malformed("integer of 5000 digits", create(raw_parameter("max_tokens", b"9" * 5000)), SYNTAX),
    malformed("number without an end", create(raw_parameter("temperature", b"1e400")), SYNTAX),
    _generation("top_k", -2),
    _generation("top_k", 2**31),
    _generation("repetition_penalty", 0),
    _generation("max_new_tokens", 10**9),
    invalid("deadline 0", create(text2text(deadline_s=0)), "deadline_s"),
    invalid("deadline negative", create(text2text(deadline_s=-1)), "deadline_s"),
    invalid("deadline of more than a day", create(text2text(deadline_s=86_400.1)), "deadline_s"),
    invalid("deadline of 64 bits", create(text2text(deadline_s=2**63)), "deadline_s"),
    invalid(
        "two at once",
        create(with_parameters(temperature=9, max_tokens=0)),
        "parameters.max_tokens",
        "parameters.temperature",
    ),
)


def _not_an_object(name: str, body: bytes) -> Case:
    return invalid(name, create(body), "(body)", says="must be a JSON object")


def _typed(name: str, body: Any, *fields: str) -> Case:
    return invalid(name, create(body), *fields)


def _message(**fields: Any) -> dict[str, Any]:
    return with_input(messages=[{"role": "user", "content": CANARY, **fields}])


TYPES = (
    _not_an_object("body a list", b"[]"),
    _not_an_object("body a text", b'"%b"' % CANARY.encode()),
    _not_an_object("body a number", b"1"),
    _not_an_object("body true", b"true"),
    _not_an_object("body null", b"null"),
    _typed("body empty", {}, "model_type", "input_data"),
    _typed("model type a number", text2text(model_type=1), "model_type"),
    _typed("model type null", text2text(model_type=None), "model_type"),
    _typed("model type unknown", text2text(model_type="text2video"), "model_type"),
    _typed("model a number", text2text(model=5), "model"),
    _typed("model not offered", text2text(model="../../etc/passwd"), "model"),
    _typed("input a text", text2text(input_data=CANARY), "input_data"),
    _typed("input a list", text2text(input_data=[CANARY]), "input_data"),
    _typed("input null", text2text(input_data=None), "input_data"),
    _typed("input empty", with_input(), "input_data"),
    _typed("input both", with_input(prompt=CANARY, messages=[{"role": "user", "content": CANARY}]), "input_data"),
    _typed("prompt a number", with_input(prompt=1), "input_data.prompt"),
    _typed("prompt a list", with_input(prompt=[CANARY]), "input_data.prompt"),
    _typed("messages a text", with_input(messages=CANARY), "input_data.messages"),
    _typed("message a text", with_input(messages=[CANARY]), "input_data.messages.0"),
    _typed("role unknown", _message(role="root"), "input_data.messages.0.role"),
    _typed("content null", _message(content=None), "input_data.messages.0.content"),
    _typed("parameters a list", text2text(parameters=[CANARY]), "parameters"),
    _typed("integer as text", with_parameters(max_tokens="5"), "parameters.max_tokens"),
    _typed("integer true", with_parameters(max_tokens=True), "parameters.max_tokens"),
    _typed("number as text", with_parameters(temperature="1"), "parameters.temperature"),
    _typed("number true", with_parameters(temperature=True), "parameters.temperature"),
    _typed("stop a number", with_parameters(stop=5), "parameters.stop"),
    _typed("deadline as text", text2text(deadline_s="5"), "deadline_s"),
    _typed(
        "boolean as a number",
        text2text(model_type="text-generation", parameters={"do_sample": 1}),
        "parameters.do_sample",
    ),
    invalid("e-mail a number", account("signin", sign_in(email=1)), "email"),
    invalid("e-mail without a domain", account("signup", sign_in(email="alice")), "email"),
    invalid("password a list", account("signin", sign_in(password=[CANARY])), "password"),
    invalid("password null", account("signup", sign_in(password=None)), "password"),
    invalid("form empty", account("signin", {}), "email", "password"),
    invalid("refresh token an object", account("refresh", {"refresh_token": {"a": CANARY}}), "refresh_token"),
)


def _top(name: str) -> Case:
    return invalid(name, create(text2text(**{name: CANARY})), name[:200], says="not a known field")


UNKNOWN_FIELDS = (
    _top("id"),
    _top("user_id"),
    _top("status"),
    _top("created_at"),
    _top("output_data"),
    _top("__proto__"),
    _top("constructor"),
    _top("$where"),
    _top("<script>alert(1)</script>"),
    _top("Prompt"),
    _top("k" * 300),
    invalid("in the input", create(with_input(prompt=CANARY, system=CANARY)), "input_data.system"),
    invalid("in a message", create(_message(surname=CANARY)), "input_data.messages.0.surname"),
    invalid("in the parameters", create(with_parameters(stream=True)), "parameters.stream"),
    invalid("parameter of another task", create(with_parameters(max_new_tokens=5)), "parameters.max_new_tokens"),
    invalid(
        "several at once",
        create(text2text(b=1, a=2, parameters={"n": 3})),
        "b",
        "a",
        "parameters.n",
        says=r"not a known field \(and 2",
    ),
    invalid("in place of a required one", create({"Model_Type": "x", "input_data": {}}), "model_type", "Model_Type"),
    invalid("role at sign-up", account("signup", sign_in(role="admin")), "role"),
    invalid("confirmation at sign-up", account("signup", sign_in(email_confirmed=True)), "email_confirmed"),
    invalid("metadata at sign-up", account("signup", sign_in(app_metadata={"a": CANARY})), "app_metadata"),
    invalid("session at sign-in", account("signin", sign_in(session_id=CANARY)), "session_id"),
    invalid("user at refresh", account("refresh", {"refresh_token": CANARY, "user_id": CANARY}), "user_id"),
    invalid("password at recovery", account("recover", sign_in()), "password"),
)
