"""The locations of files, and their obstore clients, configured only by the settings and not by the environment."""

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
from server.storage import disk
from server.storage.objects.names import ObjectKey
from server.storage.objects.objects import Objects

if TYPE_CHECKING:
    from obstore.store import LocalStore, S3Store

DEFAULT_BUCKET = "ai-sdk-server"
DEFAULT_REGION = "us-east-1"
"""Supabase accepts it unless it enforces the project's region. MinIO and similar stores always accept it."""
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
"""Between two reads. It must also suffice to send one part."""
CALL_TIMEOUT_S = 900
RETRIES = 3
RETRY_BUDGET_S = 60
_ID_FILE = ".store-id"
_LEFTOVER = re.compile(r".+#\d+")


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A private local folder."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> "LocalStore":
        """Raises OSError if the folder cannot be created."""
        from obstore.store import LocalStore  # noqa: PLC0415 - loaded with the first file

        self._make()
        return LocalStore(self.path.absolute())

    def identify(self) -> str:
        """By an id file in the folder, so that instances that mount one volume at different paths agree."""
        path = self.path / _ID_FILE
        try:
            self._make()
            with contextlib.suppress(FileExistsError), path.open("x", encoding="ascii") as file:
                file.write(str(uuid4()))
            return f"folder {path.read_text('ascii')}"
        except OSError:  # the folder cannot store files, so nothing is shared
            return f"folder {uuid4()}"

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)

    def sync(self, key: ObjectKey, /) -> None:
        """obstore does not sync, but the database records the file as stored."""
        for path in (self.path / key, (self.path / key).parent, self.path):
            disk.sync(path)

    def remove_leftovers(self, older_than: datetime, /) -> int:
        """obstore writes to `<key>#<number>` and renames the file at the end."""
        count = 0
        for path in self.path.glob("*/*#*"):
            with contextlib.suppress(FileNotFoundError):
                if _LEFTOVER.fullmatch(path.name) and path.stat().st_mtime < older_than.timestamp():
                    path.unlink()
                    count += 1
        return count


@dataclass(frozen=True, slots=True)
class Bucket:
    """An S3 bucket, with path-style addresses: `<url>/<bucket>/<key>`."""

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
        """Opens no connection yet.

        Bulk deletes are off because they send Content-MD5 and x-amz-checksum, which Supabase does not support. No call
        signs a header that a proxy may rewrite (accept-encoding).
        """
        from obstore.store import S3Store  # noqa: PLC0415 - loaded with the first file

        with _without_aws_variables():
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

    def sync(self, _key: ObjectKey, /) -> None:
        """A bucket answers only after the file is stored."""

    def remove_leftovers(self, _older_than: datetime, /) -> int:
        """Removes nothing: obstore cannot list parts. A lifecycle rule of the bucket removes them (docs/files.md)."""
        return 0


@contextlib.contextmanager
def _without_aws_variables() -> Iterator[None]:
    """obstore reads AWS_* variables, and would mix their session token or endpoint with our keys."""
    hidden = {name: value for name, value in os.environ.items() if name.upper().startswith("AWS_")}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def location_of(settings: Settings) -> LocalFolder | Bucket:
    """The bucket of STORAGE_*, else the folder `DATA_DIR/files`."""
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
    """The configured object store. It opens at the first call."""
    return Objects(location_of(settings))
