"""What `doctor` finds of Supabase Auth: whether it answers, takes the keys, and lets people in. Changes nothing."""

from dataclasses import dataclass

from server.auth.supabase.answers import Unintelligible, read_object
from server.auth.supabase.client import Answer, GoTrue, NoAnswer
from server.auth.supabase.project import NO_SERVICE_KEY_FIX, auth_host, connect, project_keys
from server.auth.supabase.project_keys import Credentials
from server.auth.supabase.refusals import read_refusal
from server.auth.supabase.verdicts import Step, judge, misconfigured
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found, with the remedy where it `is_ok` not."""

    is_ok: bool
    text: str


class _Fault(Exception):
    """Something is wrong, and this is what to do."""


async def check_accounts(settings: Settings) -> Checkup:
    """Two calls that cost nothing: the project's public settings, and one user as the service key sees it."""
    gotrue, keys, host = connect(settings), project_keys(settings), auth_host(settings)
    try:
        about = await _describe(gotrue, keys.for_anyone())
        admin = keys.for_admin()
        if admin is None:
            return Checkup(is_ok=True, text=f"Supabase Auth at {host} takes the key, {about}. {NO_SERVICE_KEY_FIX}")
        await _get(gotrue, "/admin/users?page=1&per_page=1", admin, Step.DELETE)
        return Checkup(is_ok=True, text=f"Supabase Auth at {host} takes both keys, {about}.")
    except NoAnswer as error:
        return Checkup(
            is_ok=False, text=f"No answer from Supabase Auth at {host}: {error.reason}. Is SUPABASE_URL right?"
        )
    except Unintelligible:
        return Checkup(is_ok=False, text=misconfigured().fix)
    except _Fault as fault:
        return Checkup(is_ok=False, text=str(fault))
    finally:
        await gotrue.close()


async def _describe(gotrue: GoTrue, credentials: Credentials) -> str:
    """What the project's settings mean for those who sign up."""
    data = read_object((await _get(gotrue, "/settings", credentials, Step.USER)).body)
    external = data.get("external")
    if not isinstance(external, dict):
        raise Unintelligible
    if external.get("email") is False:
        raise _Fault("Signing in by e-mail and password is switched off in the project: switch it on.")
    if data.get("disable_signup") is True:
        return "takes no new accounts"
    return "signs up at once" if data.get("mailer_autoconfirm") is True else "has new addresses confirmed by e-mail"


async def _get(gotrue: GoTrue, path: str, credentials: Credentials, step: Step) -> Answer:
    answer = await gotrue.call("GET", path, credentials)
    if not answer.is_success:
        verdict = judge(read_refusal(answer.status, answer.body), step, key_name=credentials.key_name)
        raise _Fault(verdict.fix or f"Supabase Auth answers {path} with status {answer.status}.")
    return answer
