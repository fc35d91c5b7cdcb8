"""The documentation keeps its word: what README.md and two pages of docs/ say to type gives what they say it prints.

Fences: `bash` is run, in order, in one shell; `text` after it is what it prints; `sh` is for a person (containers).
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.processes import PROJECT, server_process

API = "http://localhost:3000"
PAGES = ["README.md", "docs/quickstart.md", "docs/api.md"]
TOOLS = ["bash", "curl", "rm"]  # and python3: that of the tests
LANGUAGES = {"bash", "text", "sh", "sql"}
RUN_TIMEOUT_S = 25.0
END = "~ end of a block ~"
VARYING = {
    r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": "ID",
    r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z": "TIME",
    r'(?<="processing_time": )\d+\.\d+': "SECONDS",
}


def fences(page: str) -> list[tuple[str, str]]:
    """Every fenced block of a page, in order: language and content."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (PROJECT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, content) for language, content in found]


def examples(page: str) -> list[tuple[str, str]]:
    """What to type and what it prints, for every `bash` block."""
    blocks = [*fences(page), ("", "")]
    return [
        (content, printed if following == "text" else "")
        for (language, content), (following, printed) in pairwise(blocks)
        if language == "bash"
    ]


def masked(text: str) -> str:
    """Without what differs between runs, and without the last newline, which a page cannot leave out."""
    for pattern, name in VARYING.items():
        text = re.sub(pattern, name, text)
    return text.rstrip("\n")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server with the default limits: a reader has those, and so must get by with them."""
    data_dir = tmp_path_factory.mktemp("readme") / "data"
    with server_process(data_dir, RATE_LIMIT_PER_MINUTE="", AUTH_RATE_LIMIT_PER_MINUTE="") as server:
        yield server.port


def run(page: str, folder: Path, *, port: int) -> list[str]:
    """Run a page's examples in one new shell with no tool but those above; returns what each printed."""
    tools = folder / "bin"
    tools.mkdir()
    (tools / "python3").symlink_to(sys.executable)
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is not installed"))
    script = "".join(f"{command}\necho '{END}'\n" for command, _ in examples(page))
    done = subprocess.run(
        [tools / "bash", "-eu", "-c", script.replace(API, f"http://localhost:{port}")],
        cwd=folder,
        env={"PATH": str(tools), "HOME": str(folder), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout.split(f"{END}\n")[:-1]


@pytest.mark.parametrize("page", PAGES)
def test_examples_print_what_the_page_says_also_a_second_time(page: str, port: int, tmp_path: Path) -> None:
    expected = [masked(printed) for _, printed in examples(page)]
    assert len(expected) >= 6
    for time in ("first", "second"):
        folder = tmp_path / time
        folder.mkdir()
        assert [masked(printed) for printed in run(page, folder, port=port)] == expected
        assert [path.name for path in folder.iterdir()] == ["bin"], "an example leaves files behind"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_whether_it_is_run(page: str) -> None:
    assert {language for language, _ in fences(page)} <= LANGUAGES


def test_the_server_announces_itself_as_the_readme_shows(tmp_path: Path) -> None:
    [shown] = [content for language, content in fences("README.md") if language == "text" and "Ready:" in content]
    (tmp_path / "data").mkdir()  # the first start of a reader
    with server_process(tmp_path / "data") as server:
        printed = server.log.read_text(encoding="utf-8").splitlines()[-4:]
    expected = shown.replace(API, f"http://localhost:{server.port}").replace(" .data", f" {tmp_path / 'data'}")
    assert printed == expected.splitlines()
