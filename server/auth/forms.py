"""Bodies of the account routes."""

from typing import Annotated

from pydantic import AfterValidator, Field

from server.auth.emails import MAX_EMAIL_LENGTH, normalise_email
from server.auth.invites import MAX_CODE_LENGTH
from server.auth.passwords import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH
from server.errors import Invalid
from server.schemas import Body

_MAX_GUESS_LENGTH = 1024


def _email(text: str) -> str:
    try:
        return normalise_email(text)
    except Invalid as problem:
        raise ValueError(problem.errors[0].message) from None


Email = Annotated[
    str,
    AfterValidator(_email),
    Field(
        json_schema_extra={"format": "email", "maxLength": MAX_EMAIL_LENGTH},
        examples=["alice@example.com"],
        description="The address of the account. It is kept in lower case.",
    ),
]


class Credentials(Body):
    """A new account."""

    email: Email
    password: str = Field(
        min_length=MIN_PASSWORD_LENGTH,
        max_length=MAX_PASSWORD_LENGTH,
        examples=["correct horse battery"],
        description=f"{MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters, and not a common password.",
    )
    invite: str | None = Field(
        None,
        max_length=MAX_CODE_LENGTH,
        examples=["K7QM-2XGD-9RTB-HW4C"],
        description="The code of an invite for this address, where sign-ups need one.",
    )


class SupabaseCredentials(Credentials):
    """A new account in Supabase. The project's settings decide which passwords are accepted."""

    password: str = Field(min_length=1, max_length=_MAX_GUESS_LENGTH, examples=["correct horse battery"])


class SignIn(Body):
    """Less strict than a sign-up: an impossible value is answered as a wrong e-mail or password."""

    email: str = Field(
        max_length=_MAX_GUESS_LENGTH, examples=["alice@example.com"], description="In upper or lower case."
    )
    password: str = Field(
        max_length=_MAX_GUESS_LENGTH, examples=["correct horse battery"], description="The password of the account."
    )


class Refresh(Body):
    refresh_token: str = Field(
        min_length=1, max_length=_MAX_GUESS_LENGTH, description="The one that came with the last access token."
    )


class Recovery(Body):
    email: Email
