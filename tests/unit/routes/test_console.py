"""The console's pages: served from memory, cacheable, and under a policy that lets nothing foreign in."""

import re
from collections.abc import AsyncIterator
from importlib import resources

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from server import __version__
from server.openapi.operation import add_routes
from server.routes import console, docs

MODULES = ["app.js", "answer.js", "api.js", "ask.js", "history.js", "page.js"]
FILES = ["index.html", "docs.html", *MODULES, "docs.js", "style.css"]
PAGES = ["/", "/docs", "/openapi.json", *(f"/console/{name}" for name in FILES if not name.endswith(".html"))]

Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    app = web.Application()
    add_routes(app, (*console.routes(), *docs.routes()))
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_allows_only_what_comes_from_here(client: Client, path: str) -> None:
    response = await client.get(path)
    assert response.status == 200
    policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert {policy["script-src"], policy["style-src"], policy["connect-src"]} == {"'self'"}
    assert {policy["img-src"], policy["media-src"]} == {"blob:"}, "what the page itself fetched"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_that_the_client_has_is_not_sent_again(client: Client, path: str) -> None:
    etag = (await client.get(path)).headers["ETag"]
    response = await client.get(path, headers={"If-None-Match": f'"other", {etag}'})
    assert (response.status, await response.read()) == (304, b"")


@pytest.mark.parametrize("tag", ['"other"', "garbage", ""])
async def test_another_etag_gets_the_page(client: Client, tag: str) -> None:
    assert (await client.get("/", headers={"If-None-Match": tag})).status == 200


@pytest.mark.parametrize("accept", ["text/html,application/xhtml+xml,*/*;q=0.8", "*/*", "text/html, application/json"])
async def test_people_get_the_page(client: Client, accept: str) -> None:
    response = await client.get("/", headers={"Accept": accept})
    assert (response.content_type, response.headers["Vary"]) == ("text/html", "Accept")


async def test_machines_get_an_index(client: Client) -> None:
    response = await client.get("/", headers={"Accept": "application/json"})
    index = await response.json()
    assert index["version"] == __version__
    for path in (index["docs"], index["openapi"]):
        assert (await client.get(path)).status == 200


@pytest.mark.parametrize("name", FILES)
def test_a_file_runs_under_the_policy(name: str) -> None:
    text = (resources.files("server") / "console" / name).read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", text), "inline code is blocked"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), "text only"
    assert not re.search(r"(?:src|href|url|fetch)\W{1,2}(?:https?:)?//", text), "nothing from elsewhere"


@pytest.mark.parametrize("name", ["index.html", "docs.html"])
async def test_what_a_page_refers_to_exists(client: Client, name: str) -> None:
    text = (resources.files("server") / "console" / name).read_text(encoding="utf-8")
    paths = set(re.findall(r'(?:src|href)="([^"]+)"', text))
    assert {path: (await client.get(path)).status for path in paths} == dict.fromkeys(paths, 200)


def test_every_file_is_known_here() -> None:
    assert {file.name for file in (resources.files("server") / "console").iterdir()} == set(FILES)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_what_another_exports(name: str) -> None:
    folder = resources.files("server") / "console"
    for names, other in re.findall(r'import \{ (.*?) \} from "\./(.*?)"', (folder / name).read_text(encoding="utf-8")):
        exported = re.findall(
            r"^export (?:async )?(?:function\*? |const |class )(\w+)", (folder / other).read_text("utf-8"), re.MULTILINE
        )
        assert set(names.split(", ")) <= set(exported), other


@pytest.mark.parametrize(
    ("page", "script"),
    [*(("index.html", name) for name in MODULES if name not in {"api.js", "page.js"}), ("docs.html", "docs.js")],
)
def test_a_script_looks_only_for_elements_that_its_page_has(page: str, script: str) -> None:
    files = resources.files("server") / "console"
    ids = set(re.findall(r'id="([^"]+)"', (files / page).read_text(encoding="utf-8")))
    used = re.findall(
        r'(?:element|getElementById|buttonsOf|say|setText)\("([^"]+)"', (files / script).read_text(encoding="utf-8")
    )
    assert used
    assert set(used) <= ids


def test_every_field_has_a_label() -> None:
    text = (resources.files("server") / "console" / "index.html").read_text(encoding="utf-8")
    fields = set(re.findall(r'<(?:input|select|textarea) id="([^"]+)"', text))
    assert fields == set(re.findall(r'<label for="([^"]+)"', text))
