"""Settings: what is understood, what refuses to start, and that no secret gets into a message."""

from pathlib import Path

import pytest

from server.errors import CannotStart
from server.settings import HUGGING_FACE_ROUTER, Backend, LogFormat, Settings
from server.storage.objects import location_of

SECRET = "s3cret-that-nobody-may-see-in-a-message"
OWN_DATABASE = f"postgresql://alice:{SECRET}@db.example.com:5432/app"
BUCKET = {
    "STORAGE_URL": "https://abc.storage.supabase.co/storage/v1/s3",
    "STORAGE_ACCESS_KEY_ID": "key",
    "STORAGE_SECRET_ACCESS_KEY": SECRET,
}
PROJECT = {"SUPABASE_URL": "https://abc.supabase.co"}
NO_CERTIFICATES = (
    "DATABASE_SSL_ROOT_CERT is not a file with certificates in PEM: download the certificate of the database's CA."
)
SUPABASE = {
    "SUPABASE_URL": "https://abc.supabase.co",
    "SUPABASE_ANON_KEY": SECRET,
    "DATABASE_URL": OWN_DATABASE,
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's environment nor a developer's `.env` decides what these tests find."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def load(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings.load()


def faults(monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[str, ...]:
    with pytest.raises(CannotStart) as raised:
        load(monkeypatch, **environment)
    return raised.value.faults


def test_nothing_configured_is_a_working_offline_server() -> None:
    settings = Settings.load()
    assert (settings.port, settings.backend, settings.database_url) == (3000, Backend.OFFLINE, None)
    assert settings.data_dir == Path(".data")


def test_an_empty_variable_means_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = {name.upper(): "" for name in Settings.model_fields}
    assert load(monkeypatch, **empty) == Settings()


def test_an_env_file_of_empty_values_with_trailing_comments_starts(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('PORT=""   # server port\nDATABASE_URL=""# none\nHF_API_TOKEN=\n', encoding="utf-8")
    assert Settings.load() == Settings(_env_file=None)


def test_an_env_file_value_stands_without_its_trailing_comment(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('PORT="8080"   # server port\nLOG_LEVEL=debug # loud\n', encoding="utf-8")
    settings = Settings.load()
    assert (settings.port, settings.log_level) == (8080, "debug")


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=8080\n", encoding="utf-8")
    assert load(monkeypatch, PORT="9090").port == 9090


def test_an_unknown_name_in_the_env_file_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("COMPOSE_PROJECT_NAME=mine\n", encoding="utf-8")
    assert Settings.load() == Settings(_env_file=None)


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch, ALLOWED_ORIGINS=" https://a.example , ,https://b.example", TRUSTED_PROXIES="10.0.0.0/8"
    )
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert [str(network) for network in settings.proxy_networks] == ["10.0.0.0/8"]


@pytest.mark.parametrize(
    ("environment", "backend"),
    [
        ({}, Backend.OFFLINE),
        ({"HF_API_TOKEN": "hf_x"}, Backend.HUGGINGFACE),
        ({"HF_TOKEN": "hf_x"}, Backend.HUGGINGFACE),
        ({"HF_TOKEN": "hf_x", "DATABASE_URL": OWN_DATABASE}, Backend.HUGGINGFACE),
        ({"HF_BASE_URL": "http://localhost:11434/v1"}, Backend.HUGGINGFACE),
        ({"HF_API_TOKEN": "hf_x", "INFERENCE_BACKEND": "offline"}, Backend.OFFLINE),
        ({"HF_API_TOKEN": "hf_x", "DATABASE_URL": OWN_DATABASE}, Backend.HUGGINGFACE),
        ({"DATABASE_URL": OWN_DATABASE, "INFERENCE_BACKEND": "offline"}, Backend.OFFLINE),
    ],
)
def test_the_backend_follows_from_what_is_configured(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], backend: Backend
) -> None:
    assert load(monkeypatch, **environment).backend is backend


def test_with_supabase_and_no_token_the_edge_function_runs_the_models() -> None:
    assert Settings(supabase_url="https://abc.supabase.co").backend is Backend.EDGE


def test_a_base_url_of_ones_own_is_told_from_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not load(monkeypatch, HF_BASE_URL=HUGGING_FACE_ROUTER + "/", HF_API_TOKEN="hf_x").has_own_base_url
    assert load(monkeypatch, HF_BASE_URL="http://localhost:11434/v1/").hf_base_url == "http://localhost:11434/v1"


def test_model_timeout_is_given_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, MODEL_TIMEOUT="1500").model_timeout_s == 1.5


def test_log_format_is_left_to_the_terminal_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().log_format is None
    assert load(monkeypatch, LOG_FORMAT="console").log_format is LogFormat.CONSOLE


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({**PROJECT, "SUPABASE_ANON_KEY": "k", "HF_API_TOKEN": "t"}, "DATABASE_URL is not"),
        ({**PROJECT, "DATABASE_URL": OWN_DATABASE, "HF_API_TOKEN": "t"}, "SUPABASE_ANON_KEY is not"),
        (
            {**PROJECT, "SUPABASE_ANON_KEY": "k", "DATABASE_URL": OWN_DATABASE},
            "SUPABASE_SERVICE_ROLE_KEY, which is not",
        ),
        ({"DATABASE_URL": OWN_DATABASE}, "INFERENCE_BACKEND=offline"),
        ({"INFERENCE_BACKEND": "huggingface"}, "needs HF_API_TOKEN"),
        ({"INFERENCE_BACKEND": "edge"}, "needs SUPABASE_URL"),
        ({**BUCKET, "STORAGE_ACCESS_KEY_ID": ""}, "STORAGE_URL is set but STORAGE_ACCESS_KEY_ID is not"),
        ({**BUCKET, "STORAGE_SECRET_ACCESS_KEY": ""}, "STORAGE_URL is set but STORAGE_SECRET_ACCESS_KEY is not"),
        ({**BUCKET, "STORAGE_URL": ""}, "STORAGE_ACCESS_KEY_ID is set but STORAGE_URL is not"),
        ({"DEFAULT_WAIT_S": "60", "MAX_WAIT_S": "30"}, "DEFAULT_WAIT_S is greater"),
    ],
)
def test_what_cannot_work_together_refuses_to_start(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], named: str
) -> None:
    [fault] = faults(monkeypatch, **environment)
    assert named in fault


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("PORT", "http"),
        ("DATABASE_URL", "mysql://db.example.com/app"),
        ("DATABASE_URL", "postgresql://alice:pass/word@db.example.com:5432/app"),
        ("DATABASE_URL", "postgresql://alice@db.example.com:70000/app"),
        ("DATABASE_URL", "postgresql://alice@db.example.com:0/app"),
        ("ALLOWED_HOSTS", "https://api.example"),
        ("ALLOWED_HOSTS", "api.example:3000"),
        ("ALLOWED_HOSTS", "api.example,*example.org"),
        ("ALLOWED_ORIGINS", "https://app.example/path"),
        ("ALLOWED_ORIGINS", "app.example"),
        ("ALLOWED_ORIGINS", "https://a.example,ftp://b.example"),
        ("HF_BASE_URL", "localhost:11434/v1"),
        ("HF_BASE_URL", "https://user:pw@models.example.com/v1"),
        ("SUPABASE_JWT_SECRET", "short"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,everyone"),
        ("INFERENCE_BACKEND", "gpu"),
        ("CONCURRENCY", "0"),
        ("MODEL_TIMEOUT", "90"),
        ("LOG_LEVEL", "loud"),
        ("METRICS_TOKEN", "short"),
        ("METRICS_TOKEN", "two words and long"),
        ("STORAGE_URL", "s3://files"),
        ("STORAGE_BUCKET", "a/b"),
        ("STORAGE_BUCKET", "x" * 101),
        ("STORAGE_REGION", "eu central"),
        ("STORAGE_SECRET_ACCESS_KEY", "two words"),
        ("RETENTION_DAYS", "-1"),
    ],
)
def test_a_value_out_of_bounds_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    [fault] = faults(monkeypatch, **{name: value})
    assert fault.startswith(f"{name}: ")


@pytest.mark.parametrize("name", ["STORAGE_BUCKET", "STORAGE_REGION"])
def test_a_bucket_without_a_place_refuses_to_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = faults(monkeypatch, **{name: "eu"})
    assert [fault.split(" is not")[0] for fault in found] == [f"{name} is set but {needed}" for needed in BUCKET]


def test_without_a_bucket_files_go_to_a_folder() -> None:
    assert str(location_of(Settings())) == ".data/files"


def test_a_bucket_with_all_its_partners_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, **BUCKET)
    assert str(location_of(settings)) == "bucket ai-sdk-server at abc.storage.supabase.co"
    assert SECRET not in repr(location_of(settings))


def test_all_faults_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = faults(monkeypatch, PORT="x", CONCURRENCY="0", LOG_LEVEL="loud")
    assert {fault.split(":")[0] for fault in found} == {"PORT", "CONCURRENCY", "LOG_LEVEL"}


@pytest.mark.parametrize(
    "environment",
    [
        {"DATABASE_URL": f"mysql://alice:{SECRET}@db.example.com/app"},
        {"DATABASE_URL": OWN_DATABASE},
        {"DATABASE_URL": f"postgresql://alice:{SECRET}/#@db.example.com:5432/app"},
        {"DATABASE_URL": f"postgresql://alice:x/{SECRET}@db.example.com:5432/app"},
        {"HF_API_TOKEN": SECRET, "PORT": "x"},
        {"SUPABASE_JWT_SECRET": SECRET[:31]},
        {"HF_BASE_URL": f"https://alice:{SECRET}@models.example.com"},
        SUPABASE | {"SUPABASE_SERVICE_ROLE_KEY": "sb_publishable_" + SECRET},
    ],
)
def test_no_secret_is_in_a_fault(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    found = faults(monkeypatch, **environment)
    assert found
    assert SECRET[:31] not in "\n".join(found)


@pytest.mark.parametrize(
    ("environment", "default_wait_s"),
    [
        ({}, 85),
        ({"MAX_WAIT_S": "30"}, 30),
        ({"MAX_WAIT_S": "3600"}, 85),
        ({"MAX_WAIT_S": "30", "DEFAULT_WAIT_S": "9"}, 9),
    ],
)
def test_a_lower_longest_wait_lowers_the_usual_one(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], default_wait_s: float
) -> None:
    assert load(monkeypatch, **environment).default_wait_s == default_wait_s


def test_an_origin_is_taken_with_or_without_its_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, ALLOWED_ORIGINS="https://a.example/, http://localhost:5173,*")
    assert settings.allowed_origins == ("https://a.example", "http://localhost:5173", "*")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("capacitor://localhost", "capacitor://localhost"),
        ("ionic://localhost", "ionic://localhost"),
        ("app://-", "app://-"),
        ("app://.", "app://."),
        ("tauri://localhost/", "tauri://localhost"),
        ("https://*.example.com", "https://*.example.com"),
        ("http://localhost:*", "http://localhost:*"),
        ("https://*.example.com:*", "https://*.example.com:*"),
        ("http://[::1]:5173", "http://[::1]:5173"),
        ("https://App.Example:443", "https://app.example"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:443", "http://localhost:443"),
    ],
)
def test_c9_origins_of_app_shells_and_patterns_are_accepted(
    monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    assert load(monkeypatch, ALLOWED_ORIGINS=given).allowed_origins == (expected,)


@pytest.mark.parametrize(
    "value",
    [
        "https://*",
        "*.example.com",
        "https://app-*.example.com",
        "https://example.*",
        "https://a.*.example.com",
        "http://localhost:3*",
        "*://localhost",
        "http://localhost:port",
        "null",
        "file://",
    ],
)
def test_c9_a_pattern_that_would_never_match_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    with pytest.raises(CannotStart) as caught:
        load(monkeypatch, ALLOWED_ORIGINS=value)
    assert "ALLOWED_ORIGINS: must be origins" in str(caught.value)


@pytest.mark.parametrize(("value", "level"), [("DEBUG", "debug"), ("Warning", "warning"), ("error", "error")])
def test_a_log_level_is_a_word_in_upper_or_lower_case(monkeypatch: pytest.MonkeyPatch, value: str, level: str) -> None:
    assert load(monkeypatch, LOG_LEVEL=value).log_level == level


@pytest.mark.parametrize("value", ["loud", "10", "notset"])
def test_another_log_level_names_those_there_are(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert faults(monkeypatch, LOG_LEVEL=value) == ("LOG_LEVEL: must be debug, info, warning or error",)


def test_an_env_file_that_is_not_utf_8_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b'HF_API_TOKEN="\xff"\n')
    [fault] = faults(monkeypatch)
    assert "UTF-8" in fault


def test_an_env_file_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=1\n", encoding="utf-8")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", ".env")

    monkeypatch.setattr("builtins.open", refuse)  # root may read whatever the mode says
    [fault] = faults(monkeypatch)
    assert fault.startswith(".env cannot be read")


def test_what_is_set_in_vain_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().without_effect() == []
    settings = load(monkeypatch, LISTEN_DATABASE_URL=OWN_DATABASE, SUPABASE_ANON_KEY="k")
    assert settings.without_effect() == ["LISTEN_DATABASE_URL", "SUPABASE_ANON_KEY"]
    monkeypatch.setenv("DATABASE_URL", OWN_DATABASE)
    assert Settings().without_effect() == ["SUPABASE_ANON_KEY"]


@pytest.mark.parametrize(
    ("environment", "in_file", "token", "unused"),
    [
        ({"HF_TOKEN": "hf_x"}, "", "hf_x", []),
        ({"HF_TOKEN": "hf_x", "HF_API_TOKEN": ""}, "", "hf_x", []),
        ({"HF_TOKEN": "hf_x", "HF_API_TOKEN": "hf_x"}, "", "hf_x", []),
        ({"HF_TOKEN": "hf_x", "HF_API_TOKEN": "hf_y"}, "", "hf_y", ["HF_TOKEN"]),
        ({"HF_TOKEN": "hf_x"}, "HF_API_TOKEN=hf_y", "hf_y", ["HF_TOKEN"]),
        ({}, "HF_TOKEN=hf_x", "hf_x", []),
    ],
)
def test_around_the_token_has_the_name_of_hugging_face_as_well(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    in_file: str,
    token: str,
    unused: list[str],
) -> None:
    (tmp_path / ".env").write_text(in_file, encoding="utf-8")
    settings = load(monkeypatch, **environment)
    assert settings.hf_api_token is not None
    assert (settings.hf_api_token.get_secret_value(), settings.without_effect()) == (token, unused)


def test_no_secret_is_in_the_settings_own_text(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, HF_API_TOKEN=SECRET, DATABASE_URL=OWN_DATABASE, SUPABASE_JWT_SECRET=SECRET)
    assert SECRET not in repr(settings)
    assert SECRET not in settings.model_dump_json()


def test_settings_cannot_be_changed_after_the_start() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize("name", ["DATABASE_URL", "HF_BASE_URL", "LISTEN_DATABASE_URL"])
@pytest.mark.parametrize("host", ["h\u2100x", "h:5432x", "[::1", "h:99999"])
def test_what_is_no_url_is_refused_without_quoting_it(monkeypatch: pytest.MonkeyPatch, name: str, host: str) -> None:
    scheme = "http" if name == "HF_BASE_URL" else "postgresql"
    monkeypatch.setenv(name, f"{scheme}://alice:s3cret-canary@{host}/app")
    with pytest.raises(CannotStart) as raised:
        Settings.load(_env_file=None)
    assert name in str(raised.value)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("PORT", "abc", "PORT: must be a whole number"),
        ("PORT", "70000", "PORT: must be less than or equal to 65535"),
        ("MAX_WAIT_S", "1x", "MAX_WAIT_S: must be a number"),
        ("PORT", "9" * 5000, "PORT: is too large a number"),
        ("RETENTION_DAYS", "9" * 30, "RETENTION_DAYS: must be less than or equal to 36500"),
        ("UPLOAD_QUOTA_MB", "9" * 30, "UPLOAD_QUOTA_MB: must be less than or equal to 1000000000"),
        (
            "TRUSTED_PROXIES",
            "10.0.0.0/8,everyone",
            "TRUSTED_PROXIES: must be networks such as 10.0.0.0/8 or 127.0.0.1, separated by commas",
        ),
        (
            "DATABASE_SSL_ROOT_CERT",
            "x" * 5000,
            NO_CERTIFICATES,
        ),
        (
            "DATABASE_SSL_ROOT_CERT",
            __file__,
            NO_CERTIFICATES,
        ),
        ("LOG_FORMAT", "xml", "LOG_FORMAT: must be 'json' or 'console'"),
    ],
)
def test_around_a_wrong_value_is_one_plain_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    assert faults(monkeypatch, **{name: value}) == (line,)


def test_a_list_of_prices_that_cannot_be_used_refuses_to_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text('{"org/model": {"output": 1}}')
    assert faults(monkeypatch, PRICES=str(prices)) == (f"PRICES: {prices}: org/model.input: is required.",)
    prices.write_text('{"org/model": {"input": 1}}')
    assert load(monkeypatch, PRICES=str(prices)).prices == prices
