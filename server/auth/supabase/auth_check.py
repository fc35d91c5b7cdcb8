"""The check of Supabase Auth by `doctor`: whether it answers, accepts the keys, and allows sign-ups."""

from server.auth.public_keys import USABLE_KEYS, NotAKeySet, name_unusable_keys
from server.auth.supabase.answers import UnexpectedAnswer, read_object
from server.auth.supabase.client import AuthResponse, GoTrue, NoAnswer
from server.auth.supabase.error_mapping import Operation, map_error, misconfigured
from server.auth.supabase.error_response import read_error_response
from server.auth.supabase.project import NO_SERVICE_KEY_FIX, auth_host, connect, project_keys
from server.auth.supabase.project_keys import CallCredentials
from server.errors import CheckFailed
from server.settings import Settings


async def check_accounts(settings: Settings) -> str:
    """Make three read-only calls: the project's settings, its public keys, and one user with the service key.

    Returns a sentence for the operator. Raises `CheckFailed`.
    """
    gotrue, keys, host = connect(settings), project_keys(settings), auth_host(settings)
    try:
        about = await _describe(gotrue, keys.for_anyone())
        ignored = await _describe_ignored_keys(gotrue, keys.for_anyone())
        admin = keys.for_admin()
        if admin is None:
            return f"Supabase Auth at {host} accepts the key, {about}. {NO_SERVICE_KEY_FIX}{ignored}"
        await _get(gotrue, "/admin/users?page=1&per_page=1", admin, Operation.DELETE)
        return f"Supabase Auth at {host} accepts both keys, {about}.{ignored}"
    except NoAnswer as error:
        raise CheckFailed(f"No answer from Supabase Auth at {host}: {error.reason}. Check SUPABASE_URL.") from error
    except UnexpectedAnswer:
        raise CheckFailed(misconfigured().fix) from None
    finally:
        await gotrue.close()


async def _describe(gotrue: GoTrue, credentials: CallCredentials) -> str:
    """How the project's settings treat sign-ups."""
    data = read_object((await _get(gotrue, "/settings", credentials, Operation.USER)).body)
    external = data.get("external")
    if not isinstance(external, dict):
        raise UnexpectedAnswer
    if external.get("email") is False:
        raise CheckFailed("Signing in by e-mail and password is switched off in the project: switch it on.")
    if data.get("disable_signup") is True:
        return "accepts no sign-ups"
    return "signs up at once" if data.get("mailer_autoconfirm") is True else "confirms new addresses by e-mail"


async def _describe_ignored_keys(gotrue: GoTrue, credentials: CallCredentials) -> str:
    """A sentence about public keys that this server cannot use; empty without any, and without a list of keys."""
    answer = await gotrue.call("GET", "/.well-known/jwks.json", credentials)
    try:
        ignored = name_unusable_keys(answer.body or b"")
    except NotAKeySet:
        return ""
    names = ", ".join(ascii(name)[1:-1] for name in ignored)
    return f" Tokens of these public keys are refused: {names}. Supported are {USABLE_KEYS}." if ignored else ""


async def _get(gotrue: GoTrue, path: str, credentials: CallCredentials, operation: Operation) -> AuthResponse:
    answer = await gotrue.call("GET", path, credentials)
    if not answer.is_success:
        mapped = map_error(read_error_response(answer.status, answer.body), operation, key_name=credentials.key_name)
        raise CheckFailed(mapped.fix or f"Supabase Auth answers {path} with status {answer.status}.")
    return answer
