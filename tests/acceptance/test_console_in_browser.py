"""The console as a person uses it: in Chromium, against a server process, under the policy of its pages."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.fakes.browser import CHROMIUM, Tab, browser_tab
from tests.faults.processes import PASSWORD, server_process

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")

PROMPT = '<img src="x" onerror="alert(1)">'
ANSWER = f'Offline model, not AI: you said "{PROMPT}"'
IDLE = "!document.querySelector('#ask button').disabled"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_process(tmp_path_factory.mktemp("console") / "data") as server:
        yield f"http://localhost:{server.port}"


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    async with browser_tab(tmp_path / "profile") as tab:
        yield tab


async def sign_in(tab: Tab, origin: str, *, email: str, button: str) -> None:
    await tab.open(f"{origin}/")
    await tab.type("email", email)
    await tab.type("password", PASSWORD)
    await tab.click(f"button[value={button}]")
    await tab.until("!document.getElementById('work').hidden")


async def text_of(tab: Tab, selector: str) -> list[str]:
    found: list[str] = await tab.evaluate(f"[...document.querySelectorAll('{selector}')].map((one) => one.textContent)")
    return found


async def test_sign_up_ask_read_the_answer_and_find_it_in_the_history(tab: Tab, origin: str) -> None:
    await sign_in(tab, origin, email="alice@example.com", button="signup")
    assert await text_of(tab, "#badge") == ["Offline test double, not AI"]
    await tab.type("prompt", PROMPT)
    await tab.click("#ask button")
    await tab.until(f"document.querySelectorAll('#history li').length === 1 && {IDLE}")
    assert await text_of(tab, "#answer") == [ANSWER]
    assert await text_of(tab, "#history .prompt") == [PROMPT]
    await tab.open(f"{origin}/")
    await tab.until("document.querySelectorAll('#history li').length === 1")
    await tab.click("#history button")
    assert await text_of(tab, "#answer") == [ANSWER]
    assert tab.complaints == []


async def test_sign_out_ends_what_is_under_way_and_leaves_nothing_on_the_page(tab: Tab, origin: str) -> None:
    await sign_in(tab, origin, email="bob@example.com", button="signup")
    await tab.type("prompt", PROMPT)
    await tab.evaluate("document.getElementById('ask').requestSubmit(), document.getElementById('sign-out').click()")
    await tab.until(f"!document.getElementById('account').hidden && {IDLE}")
    assert PROMPT not in await tab.evaluate("document.body.textContent + document.getElementById('prompt').value")
    assert await text_of(tab, "#problem") == [""]
    await sign_in(tab, origin, email="bob@example.com", button="signin")
    assert tab.complaints == []


async def test_a_wrong_password_is_said_on_the_page(tab: Tab, origin: str) -> None:
    await tab.open(f"{origin}/")
    await tab.type("email", "carol@example.com")
    await tab.type("password", "not the password")
    await tab.click("button[value=signin]")
    await tab.until("!document.getElementById('problem').hidden")
    assert await text_of(tab, "#problem") == ["Authentication failed: Invalid e-mail or password."]


async def test_the_documentation_shows_every_operation(tab: Tab, origin: str) -> None:
    await tab.open(f"{origin}/docs")
    await tab.until("document.querySelectorAll('details[id]').length > 0")
    shown = await text_of(tab, "details[id] > summary")
    described = await tab.evaluate(
        "fetch('/openapi.json').then((response) => response.json()).then((doc) => Object.values(doc.paths)"
        ".flatMap(Object.values).filter((one) => !one['x-alias-of']).map((one) => one.summary))"
    )
    assert len(shown) == len(described)
    assert all(any(text.endswith(summary) for text in shown) for summary in described)
    assert tab.complaints == []


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_fits_a_phone(tab: Tab, origin: str, path: str) -> None:
    await tab.call("Emulation.setDeviceMetricsOverride", width=360, height=780, deviceScaleFactor=1, mobile=True)
    await tab.open(origin + path)
    await tab.until("document.body.innerText.length > 20")
    assert await tab.evaluate("document.documentElement.scrollWidth") <= 360
