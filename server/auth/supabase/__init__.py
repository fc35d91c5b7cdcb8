"""Accounts that Supabase Auth keeps, over HTTP (GoTrue's interface): what is sent, what comes back, what it means."""

from server.auth.supabase.accounts import SupabaseAccounts
from server.auth.supabase.checkup import Checkup, check_accounts
from server.auth.supabase.project import NO_SERVICE_KEY_FIX, auth_host, connect_accounts

__all__ = ["NO_SERVICE_KEY_FIX", "Checkup", "SupabaseAccounts", "auth_host", "check_accounts", "connect_accounts"]
