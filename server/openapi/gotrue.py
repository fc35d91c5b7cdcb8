"""The operations of `/auth/v1`, whose bodies are those of Supabase Auth. They are there with embedded accounts only."""

from server.openapi.operation import Operation
from server.openapi.parts import empty_answer, json_answer, query
from server.openapi.schemas import Schema, ref

_DESCRIPTION = (
    "For clients of Supabase Auth (supabase-js and its like) in development, with its shapes and error codes. "
    "Not there where accounts are in Supabase."
)
_USER: Schema = {
    "id": "6f1c2b8e-9d3a-4c55-8a77-0b8f3b1d2e4f",
    "aud": "authenticated",
    "role": "authenticated",
    "email": "alice@example.com",
}
_SESSION: Schema = {
    "access_token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI2ZjFj.c2lnbmF0dXJl",
    "token_type": "bearer",
    "expires_in": 3600,
    "expires_at": 1795003600,
    "refresh_token": "q2mR8vYJx3",
    "user": _USER,
}
_GRANT = {
    **query(
        "grant_type",
        "What the body holds: e-mail and password, or a refresh token.",
        {"enum": ["password", "refresh_token"]},
    ),
    "required": True,
}
_SCOPE = query("scope", "Which sessions.", {"enum": ["global", "local", "others"], "default": "global"})
_FORM = "GoTrueForm"
_REFUSED = {"code": "invalid_credentials", "message": "Invalid login credentials"}


def _operation(
    name: str,
    method: str,
    path: str,
    summary: str,
    example: object = None,
    *,
    schema: str = "GoTrueObject",
    is_public: bool = True,
    body: str | None = None,
    parameter: Schema | None = None,
) -> Operation:
    done = (
        {"204": empty_answer("Done.")}
        if example is None
        else {"200": json_answer("Done.", ref(schema), examples={"example": example})}
    )
    refused = json_answer(
        "Refused; the older form without `X-Supabase-Api-Version`.", ref("GoTrueError"), examples={"refused": _REFUSED}
    )
    answers = {**done, "4XX": refused}
    return Operation(
        f"gotrue_{name}", method, f"/auth/v1{path}", "Supabase Auth", summary, answers,
        description=_DESCRIPTION, is_public=is_public, body=body, parameters=() if parameter is None else (parameter,),
    )  # fmt: skip


GOTRUE = (
    _operation("sign_up", "post", "/signup", "Sign up", _SESSION, schema="GoTrueSession", body=_FORM),
    _operation("token", "post", "/token", "A session", _SESSION, schema="GoTrueSession", body=_FORM, parameter=_GRANT),
    _operation("user", "get", "/user", "The current user", _USER, schema="GoTrueUser", is_public=False),
    _operation(
        "update_user", "put", "/user", "Change the user", _USER, schema="GoTrueUser", is_public=False, body=_FORM
    ),
    _operation("logout", "post", "/logout", "End sessions, by `scope`", is_public=False, parameter=_SCOPE),
    _operation("recover", "post", "/recover", "Nothing: no e-mail is sent here", {}, body=_FORM),
    _operation("settings", "get", "/settings", "What can be done here", {"mailer_autoconfirm": True}),
    _operation("health", "get", "/health", "Who answers", {"name": "ai-sdk-server"}),
    _operation("jwks", "get", "/.well-known/jwks.json", "Public keys: none", {"keys": []}),
)
