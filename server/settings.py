"""All settings: one frozen object, read once from the environment and `.env`, and checked before the start."""

import contextlib
import functools
import re
import ssl
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.errors import CannotStart
from server.pooling import Pooling
from server.prices import BadPrices, read_prices

HUGGING_FACE_ROUTER = "https://router.huggingface.co"
MIN_SECRET_BYTES = 32
MIN_TOKEN_CHARS = 16
DEFAULT_WAIT_S = 85.0
MAX_COUNT = 1_000_000_000
"""Of settings that have no other upper bound, so that they fit the integers of the database."""
_KEY = re.compile(r"[!-~]+", re.ASCII)
_PROJECT_URL = re.compile(r"([a-z0-9]+)\.supabase\.(?:co|in)")
_PROJECT_DATABASE = re.compile(r"(?:db\.)?([a-z0-9]+)\.supabase\.(?:co|in)")
_PROJECT_USER = re.compile(r"[a-z_]+\.([a-z0-9]+)")
_BUCKET = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", re.ASCII)
_REGION = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_WORDS = {
    "int_parsing": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "float_parsing": "must be a number",
}
"""Messages for kinds of errors whose own messages in pydantic use terms of Python."""
_ORIGIN = re.compile(
    r"""(?P<scheme>https?|capacitor|ionic|app|tauri)://
        (?P<host>(?:\*\.)?[^*/\s,:@?\#\[\]]+|\[[0-9a-f:.]+\])
        (?P<port>:(?:\*|[0-9]{1,5}))?""",
    re.VERBOSE,
)
"""`https`, `http` and the schemes of app shells (Capacitor, Ionic, Electron, Tauri)."""
_HOST_NAME = re.compile(r"\*|(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", re.ASCII)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class SignUps(StrEnum):
    """The policy for new accounts, if they are embedded."""

    OPEN = "open"
    INVITE = "invite"
    CLOSED = "closed"


class Backend(StrEnum):
    HUGGINGFACE = "huggingface"
    EDGE = "edge"
    OFFLINE = "offline"


class LogFormat(StrEnum):
    JSON = "json"
    CONSOLE = "console"


CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Every field is optional. An empty variable means unset. The HTTP contract fixes the names."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    port: int = Field(3000, ge=0, le=65535)
    host: str = "0.0.0.0"  # noqa: S104 - a server in a container listens on all interfaces
    database_url: SecretStr | None = None
    listen_database_url: SecretStr | None = None
    database_pooler: Pooling | None = None
    database_ssl_root_cert: Path | None = None
    data_dir: Path = Path(".data")

    supabase_url: str | None = None
    supabase_anon_key: SecretStr | None = None
    supabase_service_role_key: SecretStr | None = None
    supabase_jwt_secret: SecretStr | None = None
    supabase_jwt_issuer: str | None = None

    hf_api_token: SecretStr | None = None
    hf_token: SecretStr | None = None
    hf_base_url: str = HUGGING_FACE_ROUTER
    inference_backend: Backend | None = None
    text_models: CommaSeparated = ()
    allowed_models: CommaSeparated = ()
    prices: Path | None = None

    storage_url: str | None = None
    storage_region: str | None = None
    storage_access_key_id: SecretStr | None = None
    storage_secret_access_key: SecretStr | None = None
    storage_bucket: str | None = None

    public_url: str | None = None
    allowed_hosts: CommaSeparated = ()
    allowed_origins: CommaSeparated = ()
    trusted_proxies: CommaSeparated = ()

    default_wait_s: float = Field(DEFAULT_WAIT_S, ge=0, le=3600)
    max_wait_s: float = Field(90, ge=0, le=3600)
    deadline_s: float = Field(600, ge=1, le=86_400)
    drain_s: float = Field(20, ge=0, le=600)

    concurrency: int = Field(64, ge=1, le=1000)
    max_backlog: int = Field(10_000, ge=0, le=MAX_COUNT)
    max_backlog_per_user: int = Field(1000, ge=0, le=MAX_COUNT)
    workers: int = Field(1, ge=1, le=64)
    rate_limit_per_minute: int = Field(60, ge=0, le=MAX_COUNT)
    access_token_ttl_s: int = Field(3600, ge=60, le=86_400)
    sign_ups: SignUps | None = None
    sign_ups_per_day: int = Field(20, ge=0, le=MAX_COUNT)
    auth_rate_limit_per_minute: int = Field(10, ge=0, le=MAX_COUNT)

    max_body_mb: int = Field(20, ge=1, le=100)
    max_upload_mb: int = Field(256, ge=1, le=5 * 1024)
    upload_quota_mb: int = Field(1024, ge=0, le=MAX_COUNT)

    model_timeout: int = Field(90_000, ge=100, le=3_600_000)
    max_retries: int = Field(3, ge=0, le=10)
    model_rate_per_minute: int = Field(0, ge=0, le=MAX_COUNT)
    retention_days: int = Field(0, ge=0, le=36_500)

    metrics_token: SecretStr | None = None
    log_level: str = "info"
    log_format: LogFormat | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_within_the_cap(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A lower MAX_WAIT_S lowers the default of DEFAULT_WAIT_S."""
        if "default_wait_s" not in values and "max_wait_s" in values:
            with contextlib.suppress(TypeError, ValueError):
                return values | {"default_wait_s": min(DEFAULT_WAIT_S, float(values["max_wait_s"]))}
        return values

    @model_validator(mode="before")
    @classmethod
    def _token_by_either_name(cls, values: dict[str, Any]) -> dict[str, Any]:
        """HF_TOKEN, the name that Hugging Face's own programs read, serves where HF_API_TOKEN is not set."""
        token = values.get("hf_api_token") or values.get("hf_token")
        return values | {"hf_api_token": token} if token else values

    @field_validator(
        "text_models", "allowed_models", "allowed_hosts", "allowed_origins", "trusted_proxies", mode="before"
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value

    @field_validator("hf_base_url", "supabase_url", "storage_url", "public_url")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = _split_url(value)
        if (
            parts is None
            or parts.scheme not in {"http", "https"}
            or not parts.hostname
            or parts.username
            or parts.query
        ):
            raise ValueError("must be an http(s) URL without credentials or query, such as http://localhost:11434/v1")
        return value.rstrip("/")

    @field_validator("storage_bucket")
    @classmethod
    def _bucket_name(cls, value: str | None) -> str | None:
        if value is not None and not _BUCKET.fullmatch(value):
            raise ValueError("must be the name of a bucket: 1 to 100 letters, digits, dots, hyphens or underscores")
        return value

    @field_validator("storage_region")
    @classmethod
    def _region_name(cls, value: str | None) -> str | None:
        if value is not None and not _REGION.fullmatch(value):
            raise ValueError("must be the name of a region, such as eu-central-1")
        return value

    @field_validator("database_url", "listen_database_url")
    @classmethod
    def _postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        parts = _split_url(value.get_secret_value())
        if parts is None or parts.scheme not in {"postgres", "postgresql"}:
            raise ValueError(
                "must be a URL such as postgresql://user:password@host:5432/database; "
                "write / ? # @ and : in the password as %2F %3F %23 %40 and %3A"
            )
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_HOST_NAME.fullmatch(item) for item in value):
            raise ValueError(
                "must be names such as api.example.com or *.example.com, without scheme and port, separated by commas"
            )
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_origin(item) for item in value)

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.lower() not in {"debug", "info", "warning", "error"}:
            raise ValueError("must be debug, info, warning or error")
        return value.lower()

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            for item in value:
                ip_network(item, strict=False)
        except ValueError:
            raise ValueError("must be networks such as 10.0.0.0/8 or 127.0.0.1, separated by commas") from None
        return value

    @field_validator("supabase_jwt_secret")
    @classmethod
    def _long_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"must have at least {MIN_SECRET_BYTES} bytes; make one with: openssl rand -hex 32")
        return value

    @field_validator(
        "supabase_anon_key",
        "supabase_service_role_key",
        "storage_access_key_id",
        "storage_secret_access_key",
        "metrics_token",
    )
    @classmethod
    def _one_word(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _KEY.fullmatch(value.get_secret_value()):
            raise ValueError("must be one word without spaces: copy it again")
        return value

    @field_validator("metrics_token")
    @classmethod
    def _long_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_TOKEN_CHARS:
            raise ValueError(f"must have at least {MIN_TOKEN_CHARS} characters; make one with: openssl rand -hex 32")
        return value

    @field_validator("supabase_service_role_key")
    @classmethod
    def _not_public(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and value.get_secret_value().startswith("sb_publishable_"):
            raise ValueError("is a publishable key: take the secret one, which begins with sb_secret_")
        return value

    @property
    def backend(self) -> Backend:
        """Where generations run: INFERENCE_BACKEND, else derived from the other settings."""
        if self.inference_backend is not None:
            return self.inference_backend
        if self.hf_api_token is not None or self.has_own_base_url:
            return Backend.HUGGINGFACE
        return Backend.EDGE if self.supabase_url else Backend.OFFLINE

    @property
    def sign_up_policy(self) -> SignUps | None:
        """The policy for new accounts. None with Supabase, whose own setting decides."""
        if self.supabase_url is not None:
            return None
        return self.sign_ups or (SignUps.OPEN if self.database_url is None else SignUps.INVITE)

    @property
    def has_own_base_url(self) -> bool:
        return self.hf_base_url != HUGGING_FACE_ROUTER

    @property
    def model_timeout_s(self) -> float:
        return self.model_timeout / 1000

    @property
    def host_names(self) -> tuple[str, ...]:
        """The names in `Host` that are answered: ALLOWED_HOSTS, this machine's, and that of PUBLIC_URL; `*` for any.

        Without ALLOWED_HOSTS a server that others can reach, directly or through a proxy, does not know its names, and
        answers to any. One that only this machine can reach does not need to.
        """
        if not self.allowed_hosts and (self.trusted_proxies or not _is_loopback(self.host)):
            return ("*",)
        public = urlsplit(self.public_url or "").hostname
        return (*self.allowed_hosts, "localhost", "*.localhost", *([public] if public else []))

    @functools.cached_property
    def proxy_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(ip_network(item, strict=False) for item in self.trusted_proxies)

    def without_effect(self) -> list[str]:
        """Names of settings that are set and have no effect with the others."""
        names = []
        if self.hf_token is not None and self.hf_token != self.hf_api_token:
            names.append("hf_token")
        if self.supabase_url:
            names.append("sign_ups")
        if not self.database_url:
            names += ["listen_database_url", "database_pooler", "database_ssl_root_cert"]
        if not self.supabase_url:
            names += ["supabase_anon_key", "supabase_service_role_key", "supabase_jwt_issuer"]
        return [name.upper() for name in names if getattr(self, name) is not None]

    def _storage_faults(self) -> list[str]:
        """A bucket needs its URL and both keys. Without this check its files would go to a local folder."""
        fields = (name for name in type(self).model_fields if name.startswith("storage_"))
        given = {name.upper() for name in fields if getattr(self, name) is not None}
        needed = ("STORAGE_URL", "STORAGE_ACCESS_KEY_ID", "STORAGE_SECRET_ACCESS_KEY")
        missing = [name for name in needed if name not in given]
        if not given or not missing:
            return []
        first = next(name for name in (*needed, "STORAGE_REGION", "STORAGE_BUCKET") if name in given)
        return [f"{first} is set but {name} is not: object storage needs both." for name in missing]

    def faults(self) -> list[str]:
        """Settings that contradict each other, one line each."""
        lines = []
        if self.supabase_url and not self.database_url:
            lines.append("SUPABASE_URL is set but DATABASE_URL is not: set it to the project's connection string.")
        if self.supabase_url and not self.supabase_anon_key:
            lines.append("SUPABASE_URL is set but SUPABASE_ANON_KEY is not: copy it from the project's API settings.")
        if not self._is_one_project():
            lines.append(
                "DATABASE_URL is the database of another Supabase project than SUPABASE_URL: take both of one."
            )
        if self.database_ssl_root_cert and not _holds_certificates(self.database_ssl_root_cert):
            lines.append(
                "DATABASE_SSL_ROOT_CERT is not a file with certificates in PEM: "
                "download the certificate of the database's CA."
            )
        if self.prices is not None:
            try:
                read_prices(self.prices)
            except BadPrices as error:
                lines.append(f"PRICES: {error}")
        lines += self._storage_faults()
        if self.default_wait_s > self.max_wait_s:
            lines.append("DEFAULT_WAIT_S is greater than MAX_WAIT_S: lower the one or raise the other.")
        return lines

    def _model_faults(self) -> list[str]:
        lines = []
        if self.backend is Backend.HUGGINGFACE and not self.hf_api_token and not self.has_own_base_url:
            lines.append("INFERENCE_BACKEND=huggingface needs HF_API_TOKEN, or HF_BASE_URL for a server of your own.")
        if self.backend is Backend.EDGE and not self.supabase_url:
            lines.append("INFERENCE_BACKEND=edge needs SUPABASE_URL, where the edge function runs.")
        if self.backend is Backend.EDGE and self.supabase_url and not self.supabase_service_role_key:
            lines.append(
                "The edge function is called with SUPABASE_SERVICE_ROLE_KEY, which is not set: copy it from the "
                "project's API settings, or set HF_API_TOKEN to do without the function."
            )
        if self.database_url and self.backend is Backend.OFFLINE and self.inference_backend is None:
            lines.append(
                "DATABASE_URL is set but no model is: set HF_API_TOKEN or HF_BASE_URL, "
                "or INFERENCE_BACKEND=offline to answer from the test double on purpose."
            )
        return lines

    def _is_one_project(self) -> bool:
        """False only if both URLs name a Supabase project and the projects differ."""
        here, there = self._reference_in_url(), self._reference_in_database()
        return here is None or there is None or here == there

    @property
    def project_reference(self) -> str | None:
        """The name that Supabase gave to the project; None if neither address names it (custom domain, self-hosted)."""
        return self._reference_in_url() or self._reference_in_database()

    def _reference_in_url(self) -> str | None:
        match = _PROJECT_URL.fullmatch(urlsplit(self.supabase_url or "").hostname or "")
        return None if match is None else match[1]

    def _reference_in_database(self) -> str | None:
        parts = _split_url("" if self.database_url is None else self.database_url.get_secret_value())
        if parts is None:
            return None
        host = parts.hostname or ""
        is_pooler = host.endswith(".pooler.supabase.com")
        match = _PROJECT_USER.fullmatch(parts.username or "") if is_pooler else _PROJECT_DATABASE.fullmatch(host)
        return None if match is None else match[1]

    @classmethod
    def load(cls, *, needs_model: bool = True, **overrides: Any) -> Self:
        """Read and check all settings. Raises `CannotStart` with all faults at once.

        `needs_model=False` is for commands that only touch the data: a model need not be configured.
        """
        try:
            settings = cls(**overrides)
        except (OSError, UnicodeError):
            raise CannotStart(".env cannot be read: make it a UTF-8 file that this user may read.") from None
        except ValidationError as error:
            raise CannotStart(*(_line(item) for item in error.errors(include_input=False, include_url=False))) from None
        if faults := settings.faults() + (settings._model_faults() if needs_model else []):
            raise CannotStart(*faults)
        return settings


def _split_url(text: str) -> SplitResult | None:
    """The parts of a URL, or None if it is invalid. urllib's own errors would quote the password."""
    try:
        parts = urlsplit(text)
        return None if parts.port == 0 else parts
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _holds_certificates(path: Path) -> bool:
    try:
        ssl.create_default_context(cafile=path)
    except OSError:  # also ssl.SSLError: the file has another content
        return False
    return True


def _origin(text: str) -> str:
    """The origin as browsers send it: in lower case, without the port that its scheme implies. Raises `ValueError`."""
    text = text.rstrip("/").lower()
    if text == "*":
        return text
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError(
            "must be origins such as https://app.example, capacitor://localhost, https://*.example.com or "
            "http://localhost:*, without a path, separated by commas"
        )
    return text.removesuffix(_DEFAULT_PORTS.get(match["scheme"], "/"))


def _line(item: Any) -> str:
    name = str(item["loc"][0]).upper() if item["loc"] else "settings"
    words = _WORDS.get(item["type"]) or item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{name}: {words}"
