"""Accounts in Supabase Auth, over its HTTP API (GoTrue)."""

from server.auth.supabase.admin import SupabaseAdmin
from server.auth.supabase.auth_check import check_accounts
from server.auth.supabase.project import NO_SERVICE_KEY_FIX, auth_host, connect_accounts
from server.auth.supabase.supabase_accounts import SupabaseAccounts

__all__ = ["NO_SERVICE_KEY_FIX", "SupabaseAccounts", "SupabaseAdmin", "auth_host", "check_accounts", "connect_accounts"]
