"""Whether a folder outlives its container, judged by the table of mounts."""

from pathlib import Path

import pytest

from server.storage.embedded import ephemeral
from server.storage.embedded.ephemeral import is_ephemeral

# As in proc(5): id, parent, device, root, mount point, options, optional fields, "-", type, source, options.
MOUNTS = """\
22 1 0:50 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/a
23 22 0:51 / /proc rw - proc proc rw
24 22 254:1 / /data rw,relatime - ext4 /dev/vdb rw
25 24 0:52 / /data/cache rw shared:2 - tmpfs tmpfs rw
26 22 254:2 / /my\\040volume rw - ext4 /dev/vdc rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    return path


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")


@pytest.mark.parametrize(
    ("path", "is_lost"),
    [
        ("/app/.data", True),
        ("/data", False),
        ("/data/postgres", False),
        ("/database", True),
        ("/data/cache/x", True),
        ("/my volume/x", False),
    ],
)
def test_a_container_keeps_what_lies_on_a_volume(container: None, mounts: Path, path: str, is_lost: bool) -> None:  # noqa: FBT001 - a case
    assert is_ephemeral(Path(path), mounts=mounts) is is_lost


def test_without_a_table_of_mounts_nothing_is_claimed(container: None, tmp_path: Path) -> None:
    assert not is_ephemeral(Path("/app/.data"), mounts=tmp_path / "missing")


def test_outside_a_container_nothing_is_claimed(mounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ephemeral, "_CONTAINER_SIGNS", ())
    for name in ephemeral._CONTAINER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert not is_ephemeral(Path("/app/.data"), mounts=mounts)
