"""The operations on accounts."""

from server.auth.accounts import CHECK_YOUR_EMAIL
from server.errors import Conflict, Forbidden, RateLimited, Unauthenticated
from server.openapi import examples
from server.openapi.operation import BODY, SIGNED_IN, USUAL, Operation
from server.openapi.parts import empty_answer, json_answer
from server.openapi.schemas import ref

_SESSION_ANSWER = json_answer("Signed in.", ref("Session"), examples={"session": examples.SESSION})

ACCOUNTS = (
    Operation(
        "sign_up",
        "post",
        "/api/auth/signup",
        "Accounts",
        "Create an account",
        {
            "200": json_answer(
                "The address has to be confirmed first (accounts in Supabase); the same for one that is taken.",
                ref("Unconfirmed"),
                examples={"unconfirmed": {"message": CHECK_YOUR_EMAIL, "user": {"email": "alice@example.com"}}},
            ),
            "201": json_answer(
                "The account, signed in.",
                ref("Session"),
                examples={"session": {"message": "Account created.", **examples.SESSION}},
            ),
        },
        description="Accounts in Supabase may ask more of a password, and for the address to be confirmed by e-mail.",
        alias="/auth/signup",
        body="Credentials",
        problems=(*BODY, Forbidden, Conflict, RateLimited, *USUAL),
        is_public=True,
    ),
    Operation(
        "sign_in",
        "post",
        "/auth/signin",
        "Accounts",
        "Sign in",
        {"200": _SESSION_ANSWER},
        description="An unknown address and a wrong password are answered alike, after the same time.",
        alias="/api/auth/signin",
        body="SignIn",
        problems=(*BODY, Unauthenticated, Forbidden, RateLimited, *USUAL),
        is_public=True,
    ),
    Operation(
        "refresh",
        "post",
        "/auth/refresh",
        "Accounts",
        "Trade a refresh token for new tokens",
        {"200": _SESSION_ANSWER},
        description="Each refresh token works once. One that is used a second time ends its session.",
        alias="/api/auth/refresh",
        body="Refresh",
        problems=(*BODY, Unauthenticated, RateLimited, *USUAL),
        is_public=True,
    ),
    Operation(
        "sign_out",
        "post",
        "/auth/signout",
        "Accounts",
        "End the session",
        {"204": empty_answer("Refresh tokens are void at once; the access token lives until it expires.")},
        alias="/api/auth/signout",
        problems=(*SIGNED_IN, *USUAL),
    ),
    Operation(
        "recover",
        "post",
        "/auth/recover",
        "Accounts",
        "Ask for help with a forgotten password",
        {
            "200": json_answer(
                "The same whether the account exists or not.",
                ref("Notice"),
                examples={
                    "message": {"message": "This server sends no e-mail: ask its operator to set a new password."}
                },
            )
        },
        alias="/api/auth/recover",
        body="Recovery",
        problems=(*BODY, RateLimited, *USUAL),
        is_public=True,
    ),
    Operation(
        "get_user",
        "get",
        "/auth/user",
        "Accounts",
        "The current user",
        {"200": json_answer("The account.", ref("User"), examples={"user": examples.USER})},
        alias="/api/auth/user",
        problems=(*SIGNED_IN, *USUAL),
    ),
    Operation(
        "delete_user",
        "delete",
        "/auth/user",
        "Accounts",
        "Delete the account with all its requests",
        {"204": empty_answer("Gone. What was running for it is stopped.")},
        alias="/api/auth/user",
        problems=(*SIGNED_IN, Forbidden, *USUAL),
    ),
)
