"""Finds names that are not read: in the environment those that resemble a setting, in `.env` all."""

import contextlib
import difflib
from collections.abc import Collection

from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from server.settings import Settings

_FOREIGN = {
    "HF_API_TOKEN": (
        "HF_API_KEY",
        "HF_KEY",
        "HF_TOKEN_PATH",
        "HUGGINGFACEHUB_API_TOKEN",
        "HUGGINGFACE_API_KEY",
        "HUGGINGFACE_API_TOKEN",
        "HUGGINGFACE_TOKEN",
        "HUGGING_FACE_API_KEY",
        "HUGGING_FACE_HUB_TOKEN",
        "HUGGING_FACE_TOKEN",
    ),
    "SUPABASE_ANON_KEY": ("SUPABASE_KEY", "SUPABASE_PUBLISHABLE_KEY"),
    "SUPABASE_SERVICE_ROLE_KEY": ("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_KEY"),
}
"""The names that other programs use for a setting: Hugging Face's libraries, LangChain, LiteLLM, Supabase's tools."""
_OURS = {foreign: ours for ours, names in _FOREIGN.items() for foreign in names}
_SETTINGS = [name.upper() for name in Settings.model_fields]
_LEAST_LIKENESS = 0.85
"""`HF_APITOKEN` resembles `HF_API_TOKEN` by 0.96; `XDG_DATA_DIRS` resembles `DATA_DIR` by 0.76."""
_UNRELATED = frozenset({"WEB_CONCURRENCY"})
"""Names that platforms set for other programs."""


def given_names() -> set[str]:
    """All names with a value, in capitals."""
    return {name.upper() for name in EnvSettingsSource(Settings).env_vars} | names_in_file()


def names_in_file() -> set[str]:
    """The names with a value in `.env`, in capitals. None if it cannot be read, which `Settings.load` reports."""
    with contextlib.suppress(OSError, UnicodeError):
        return {name.upper() for name in DotEnvSettingsSource(Settings).env_vars}
    return set()


def find_unknown(given: Collection[str]) -> set[str]:
    """The names that are no settings."""
    return set(given) - set(_SETTINGS)


def find_unread(given: Collection[str]) -> dict[str, str]:
    """Unread names, each with the setting that is probably meant. Settings that are given are not proposed."""
    known = {"HF_API_TOKEN", *given} if "HF_TOKEN" in given else set(given)
    candidates = [name for name in _SETTINGS if name not in known]
    unread = {}
    for name in sorted(known - set(_SETTINGS) - _UNRELATED):
        likely = [_OURS[name]] if name in _OURS else difflib.get_close_matches(name, candidates, 1, _LEAST_LIKENESS)
        if likely and likely[0] in candidates:
            unread[name] = likely[0]
    return unread
