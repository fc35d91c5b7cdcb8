"""The Supabase project of the settings: the address of its Auth, its keys, its accounts."""

from urllib.parse import urlsplit

from server.auth.supabase.client import GoTrue
from server.auth.supabase.project_keys import ProjectKeys
from server.auth.supabase.supabase_accounts import Revoke, SupabaseAccounts
from server.settings import Settings

NO_SERVICE_KEY_FIX = "Users cannot delete their accounts (403) until SUPABASE_SERVICE_ROLE_KEY is set."


def connect_accounts(settings: Settings, revoke: Revoke) -> SupabaseAccounts:
    """The accounts of the configured project. SUPABASE_URL and SUPABASE_ANON_KEY must be set."""
    return SupabaseAccounts(connect(settings), project_keys(settings), revoke=revoke)


def connect(settings: Settings) -> GoTrue:
    return GoTrue(f"{settings.supabase_url}/auth/v1")


def auth_host(settings: Settings) -> str:
    """The host of the accounts, to be shown to people."""
    return urlsplit(settings.supabase_url or "").netloc


def project_keys(settings: Settings) -> ProjectKeys:
    anon, service = settings.supabase_anon_key, settings.supabase_service_role_key
    return ProjectKeys(
        anon="" if anon is None else anon.get_secret_value(),  # `Settings.load` requires it
        service=None if service is None else service.get_secret_value(),
    )
