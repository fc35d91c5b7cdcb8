"""Where files are kept, and how obstore is told: nothing but the settings counts, whatever the environment says."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

from pydantic import SecretStr

from server.settings import Settings
from server.storage.disk import sync
from server.storage.objects.names import ObjectKey
from server.storage.objects.objects import Objects

if TYPE_CHECKING:
    from obstore.store import LocalStore, S3Store

DEFAULT_BUCKET = "ai-sdk-server"
DEFAULT_REGION = "us-east-1"
"""Taken by Supabase unless it enforces the project's own, by MinIO and its like always."""
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
"""Between two bytes; it has to suffice for sending one part, too."""
CALL_TIMEOUT_S = 900
RETRIES = 3
RETRY_BUDGET_S = 60
_ID_FILE = ".store-id"
_LEFTOVER = re.compile(r".+#\d+")


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder that only its owner can enter."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> "LocalStore":
        """Raises OSError where the folder cannot be made."""
        from obstore.store import LocalStore  # noqa: PLC0415 - loaded when the first file comes

        self._make()
        return LocalStore(self.path.absolute())

    def identify(self) -> str:
        """By an id that lies in the folder: a volume that several instances mount has one, under whatever path."""
        path = self.path / _ID_FILE
        try:
            self._make()
            with contextlib.suppress(FileExistsError), path.open("x", encoding="ascii") as file:
                file.write(str(uuid4()))
            return f"folder {path.read_text('ascii')}"
        except OSError:  # nothing can be kept here, so nothing is shared
            return f"folder {uuid4()}"

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)

    def settle(self, key: ObjectKey, /) -> None:
        """obstore leaves it to the kernel when a file reaches the disk; the database believes that it is there."""
        for path in (self.path / key, (self.path / key).parent, self.path):
            sync(path)

    def remove_leftovers(self, older_than: datetime, /) -> int:
        """Those of obstore, which writes to `<key>#<number>` and renames that at the end."""
        count = 0
        for path in self.path.glob("*/*#*"):
            with contextlib.suppress(FileNotFoundError):
                if _LEFTOVER.fullmatch(path.name) and path.stat().st_mtime < older_than.timestamp():
                    path.unlink()
                    count += 1
        return count


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket behind the S3 protocol, by path: `<url>/<bucket>/<key>`."""

    url: str
    region: str
    name: str
    access_key_id: SecretStr
    secret_access_key: SecretStr
    read_timeout_s: float = READ_TIMEOUT_S
    retries: int = RETRIES

    def __str__(self) -> str:
        return f"bucket {self.name} at {urlsplit(self.url).netloc}"

    def open(self) -> "S3Store":
        """Connects nowhere yet.

        Bulk deletes are off since they carry Content-MD5 and x-amz-checksum, which Supabase does not support. No other
        call sends a header that a proxy on the way rewrites (accept-encoding), so none is signed.
        """
        from obstore.store import S3Store  # noqa: PLC0415 - loaded when the first file comes

        with _no_amazon_variables():
            return S3Store(
                self.name,
                endpoint=self.url,
                region=self.region,
                access_key_id=self.access_key_id.get_secret_value(),
                secret_access_key=self.secret_access_key.get_secret_value(),
                virtual_hosted_style_request=False,
                disable_bulk_delete=True,
                disable_tagging=True,
                client_options={
                    "allow_http": self.url.startswith("http://"),
                    "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
                    "read_timeout": timedelta(seconds=self.read_timeout_s),
                    "timeout": timedelta(seconds=CALL_TIMEOUT_S),
                },
                retry_config={"max_retries": self.retries, "retry_timeout": timedelta(seconds=RETRY_BUDGET_S)},
            )

    def identify(self) -> str:
        return f"bucket {self.name} at {self.url}"

    def settle(self, _key: ObjectKey, /) -> None:
        """A bucket answers when it has it."""

    def remove_leftovers(self, _older_than: datetime, /) -> int:
        """None: parts of a file are listed by no call of obstore. A rule of the bucket ends them (docs/files.md)."""
        return 0


@contextlib.contextmanager
def _no_amazon_variables() -> Iterator[None]:
    """obstore reads AWS_* as well: a session token or an endpoint from there would go with our own keys."""
    hidden = {name: value for name, value in os.environ.items() if name.upper().startswith("AWS_")}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def place_of(settings: Settings) -> LocalFolder | Bucket:
    """The bucket of STORAGE_*, else the folder `files` in DATA_DIR."""
    key, secret = settings.storage_access_key_id, settings.storage_secret_access_key
    if settings.storage_url is None or key is None or secret is None:
        return LocalFolder(settings.data_dir / "files")
    return Bucket(
        url=settings.storage_url,
        region=settings.storage_region or DEFAULT_REGION,
        name=settings.storage_bucket or DEFAULT_BUCKET,
        access_key_id=key,
        secret_access_key=secret,
    )


def create_objects(settings: Settings) -> Objects:
    """Opens nothing before the first file."""
    return Objects(place_of(settings))
