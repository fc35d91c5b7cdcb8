"""The Supabase project of the settings: where its Auth is, its keys, its accounts."""

from urllib.parse import urlsplit

from server.auth.supabase.accounts import SupabaseAccounts
from server.auth.supabase.client import GoTrue
from server.auth.supabase.project_keys import ProjectKeys
from server.settings import Settings

NO_SERVICE_KEY_FIX = "Users cannot delete their accounts (403) until SUPABASE_SERVICE_ROLE_KEY is set."


def connect_accounts(settings: Settings) -> SupabaseAccounts:
    """The accounts of the project in the settings, which must name one with its key."""
    return SupabaseAccounts(connect(settings), project_keys(settings))


def connect(settings: Settings) -> GoTrue:
    return GoTrue(f"{settings.supabase_url}/auth/v1")


def auth_host(settings: Settings) -> str:
    """Where the accounts are, for people."""
    return urlsplit(settings.supabase_url or "").netloc


def project_keys(settings: Settings) -> ProjectKeys:
    anon, service = settings.supabase_anon_key, settings.supabase_service_role_key
    return ProjectKeys(
        anon="" if anon is None else anon.get_secret_value(),  # the settings see to it that there is one
        service=None if service is None else service.get_secret_value(),
    )
