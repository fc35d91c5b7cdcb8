"""The console as a person uses it: in Chromium, against a server process, under the policy of its pages."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server.inference.offline import LONG_STREAM_WORDS
from server.inference.offline.sample_files import make_png
from tests import tools
from tests.fakes.browser import Tab, browser_tab
from tests.fakes.huggingface import Answer, FakeHuggingFace, chat_answer, event
from tests.faults.processes import PASSWORD, server_process, serving
from tests.faults.test_users import users

pytestmark = tools.needs(tools.CHROMIUM)

PROMPT = '<img src="x" onerror="alert(1)">'
ANSWER = f'Offline model, not AI: you said "{PROMPT}"'
IDLE = "!document.querySelector('#ask button').disabled"
WORDS = "document.getElementById('answer').textContent.split(' ').filter((word) => word.startsWith('word'))"
CANCEL_WHILE_WRITTEN = f"""(async () => {{
    while (!({WORDS}.length > 10)) await new Promise((done) => setTimeout(done, 20));
    const about = [...document.querySelectorAll("#history .about")].map((one) => one.textContent);
    const isIdle = {IDLE};
    document.getElementById("cancel").click();
    return [about, isIdle];
}})()"""
"""In one step: a busy browser may take a second for each, and the text is written within seven."""
BREAK_FIRST_STREAM = """
    window.asked = [];
    const real = window.fetch;
    window.fetch = async (path, options) => {
      window.asked.push(`${options.method} ${path.replace(/[0-9a-f-]{36}/, "ID")}`);
      const response = await real(path, options);
      if (options.method !== "POST" || path !== "/api/requests") return response;
      const reader = response.body.getReader();
      let left = 20;
      return new Response(new ReadableStream({
        async pull(controller) {
          const { value } = await reader.read();
          if (left--) controller.enqueue(value);
          else { reader.cancel(); controller.error(new TypeError("network error")); }
        },
      }), response);
    };
"""
"""The line of a stream breaks after twenty pieces; `asked` notes what was asked for."""

CREATE_ELSEWHERE = """
    async (body) => {
      const token = sessionStorage.getItem("ai-sdk-server.token");
      const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json", Prefer: "respond-async" };
      const call = async (path, body) => (await fetch(path, { method: "POST", headers, body })).json();
      const { id } = await call("/api/requests", body);
      window.cancelElsewhere = () => call(`/api/requests/${id}/cancel`);
    }
"""


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
    await tab.until(f"document.querySelectorAll('#model-type option').length > 20 && {IDLE}")


async def text_of(tab: Tab, selector: str) -> list[str]:
    found: list[str] = await tab.evaluate(f"[...document.querySelectorAll('{selector}')].map((one) => one.textContent)")
    return found


async def test_sign_up_ask_read_the_answer_and_find_it_in_the_history(tab: Tab, origin: str) -> None:
    await sign_in(tab, origin, email="alice@example.com", button="signup")
    assert await text_of(tab, "#badge") == ["Offline test double, not AI"]
    await tab.type("prompt", PROMPT)
    await tab.click("#ask button")
    await tab.until(f"document.querySelector('#history .about')?.textContent === 'completed' && {IDLE}")
    assert await text_of(tab, "#answer") == [ANSWER]
    assert await text_of(tab, "#history .prompt") == [PROMPT]
    await tab.open(f"{origin}/")
    await tab.until("document.querySelectorAll('#history li').length === 1")
    await tab.click("#history button")
    await tab.until("document.getElementById('answer').textContent")
    assert await text_of(tab, "#answer") == [ANSWER]
    assert tab.complaints == []


async def test_the_link_of_an_invite_fills_the_form_and_signs_up(tab: Tab, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with server_process(data_dir, SIGN_UPS="invite") as server:
        origin = f"http://localhost:{server.port}"
        link = users(data_dir, "invite", "alice@example.com", PUBLIC_URL=origin)["link"]
        await tab.open(link)
        await tab.until("!document.getElementById('invited').hidden")
        assert await tab.evaluate("document.getElementById('email').value") == "alice@example.com"
        await tab.type("password", PASSWORD)
        await tab.click("button[value=signup]")
        await tab.until(f"document.querySelectorAll('#model-type option').length > 20 && {IDLE}")
        assert tab.complaints == []


async def ask(tab: Tab, prompt: str, *, model: str) -> None:
    await tab.type("prompt", prompt)
    await tab.type("model", model)
    await tab.click("#ask button")


async def test_an_answer_is_seen_being_written_and_cancelling_keeps_what_there_is(tab: Tab, origin: str) -> None:
    await sign_in(tab, origin, email="dora@example.com", button="signup")
    await ask(tab, PROMPT, model="offline/long-stream")
    seen = await tab.evaluate(CANCEL_WHILE_WRITTEN)
    assert seen == [["processing"], False]
    await tab.until(f"document.querySelector('#history .about').textContent === 'cancelled' && {IDLE}")
    [about] = await text_of(tab, "#answer-about")
    assert about.startswith("cancelled · chat-completion · offline/long-stream · cut off")
    assert 10 < await tab.evaluate(f"{WORDS}.length") < 300
    assert await tab.evaluate("document.getElementById('cancel').hidden")
    assert tab.complaints == []


async def test_a_stream_goes_on_where_its_line_broke(tab: Tab, origin: str) -> None:
    await sign_in(tab, origin, email="erin@example.com", button="signup")
    await tab.evaluate(f"(() => {{ {BREAK_FIRST_STREAM} }})()")
    await ask(tab, "Go on.", model="offline/long-stream")
    await tab.until("asked.some((call) => call.startsWith('GET /api/requests/ID/events?after=1.1-'))")
    await tab.until(f"{WORDS}.length > 60")
    words = await tab.evaluate(WORDS)
    assert await text_of(tab, "#answer-about") == ["processing"], "what stands there came by the streams"
    assert words == [f"word{number}" for number in range(1, len(words) + 1)]
    assert await tab.evaluate("asked.filter((call) => call === 'POST /api/requests').length") == 1


async def test_the_page_goes_on_after_the_server_was_killed(tab: Tab, tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server:
        await sign_in(tab, f"http://localhost:{server.port}", email="eve@example.com", button="signup")
        await tab.evaluate(
            "new MutationObserver(() => { window.isMixedUp ||= "
            f"{WORDS}.some((word, index) => word !== `word${{index + 1}}`); }})"
            ".observe(document.getElementById('answer'), { childList: true })"
        )
        await ask(tab, "Survive.", model="offline/long-stream")
        await tab.until(f"{WORDS}.length > 40")
        await asyncio.to_thread(server.kill)
        await tab.until("document.getElementById('answer-about').textContent.startsWith('The connection was lost')")
        await asyncio.to_thread(server.start)
        await tab.until(f"document.querySelector('#history .about').textContent === 'completed' && {IDLE}")
        assert await tab.evaluate(f"{WORDS}.length") == LONG_STREAM_WORDS
        assert not await tab.evaluate("window.isMixedUp")


async def test_pictures_and_sounds_are_shown_and_a_request_is_deleted(tab: Tab, origin: str) -> None:
    await sign_in(tab, origin, email="frank@example.com", button="signup")
    await tab.choose("model-type", "text-to-image")
    await tab.click("#ask button")
    await tab.until("document.querySelector('#files img')?.naturalWidth > 0")
    assert await tab.evaluate("document.querySelector('#files img').naturalWidth") == 1024, "as the example asks"
    await tab.choose("model-type", "text-to-speech")
    await tab.until(IDLE)
    await tab.click("#ask button")
    await tab.until("document.querySelector('#files audio')?.duration > 0")
    assert await text_of(tab, "#files img") == []
    await tab.until("document.querySelectorAll('#history li').length === 2")
    await tab.evaluate("window.confirm = () => true")
    await tab.click("#delete")
    await tab.until("document.querySelectorAll('#history li').length === 1")
    assert await text_of(tab, "#history .kind") == ["text-to-image"]
    assert await text_of(tab, "#answer-about") == ["Deleted."]
    assert tab.complaints == []


async def test_an_image_is_uploaded_and_asked_about(tab: Tab, origin: str, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(make_png("picture"))
    await sign_in(tab, origin, email="grace@example.com", button="signup")
    await tab.choose("model-type", "image-to-text")
    await tab.click("#ask button")
    await tab.until("!document.getElementById('problem').hidden")
    assert await text_of(tab, "#problem") == ["Choose an image first."]
    await tab.choose_file("file", picture)
    size = picture.stat().st_size
    await tab.until(f"document.getElementById('file-about').textContent === 'Uploaded: image/png, {size} bytes'")
    await tab.click("#ask button")
    await tab.until("document.getElementById('answer').textContent")
    assert await text_of(tab, "#answer") == [f"Offline model, not AI: image of {size} bytes"]
    await tab.choose("model-type", "chat-completion")
    assert await text_of(tab, "#file-about") == [""]
    await tab.until(IDLE)
    await tab.choose_file("file", picture)
    await tab.until("!document.getElementById('file-about').hidden && " + IDLE)
    await ask(tab, "What is it?", model="offline/echo")
    await tab.until("document.querySelectorAll('#history li').length === 2")
    assert await text_of(tab, "#history .prompt") == ["What is it?\n[image]", "[image]"]
    assert tab.complaints == []


async def test_input_that_is_no_json_is_said_and_not_sent(tab: Tab, origin: str) -> None:
    await sign_in(tab, origin, email="heidi@example.com", button="signup")
    await tab.choose("model-type", "summarization")
    await tab.type("input", "{")
    await tab.click("#ask button")
    await tab.until("!document.getElementById('problem').hidden")
    [problem] = await text_of(tab, "#problem")
    assert problem.startswith("The input is not JSON:")
    assert await text_of(tab, "#history li") == []


async def test_what_happens_elsewhere_shows_in_the_history(tab: Tab, origin: str) -> None:
    await sign_in(tab, origin, email="ivan@example.com", button="signup")
    body = {"model_type": "chat", "model": "offline/slow-20s", "input_data": {"prompt": "From elsewhere."}}
    await tab.evaluate(f"({CREATE_ELSEWHERE})({json.dumps(json.dumps(body))})")
    await tab.until("document.querySelector('#history .about')?.textContent === 'processing'")
    assert await text_of(tab, "#history .prompt") == ["From elsewhere."]
    await tab.evaluate("window.cancelElsewhere().then(() => null)")
    await tab.until("document.querySelector('#history .about').textContent === 'cancelled'")
    assert tab.complaints == []


async def test_what_a_model_thinks_stands_apart_from_what_it_says(tab: Tab, tmp_path: Path) -> None:
    said = chat_answer("It is ", "blue.")
    thought = event({"choices": [{"index": 0, "delta": {"reasoning": "The sky, then."}}]})
    answer = Answer(200, said.headers, (thought, *said.pieces))
    async with (
        FakeHuggingFace(answer) as upstream,
        serving(tmp_path / "data", HF_BASE_URL=upstream.url, TEXT_MODELS="acme/thinker", HF_API_TOKEN="") as server,
    ):
        await sign_in(tab, f"http://localhost:{server.port}", email="judy@example.com", button="signup")
        await tab.type("prompt", "Which colour?")
        await tab.click("#ask button")
        await tab.until("document.getElementById('answer').textContent === 'It is blue.'")
        assert await text_of(tab, "#reasoning") == ["The sky, then."]
        assert not await tab.evaluate("document.getElementById('thinking').hidden")
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


async def test_a_session_that_ended_says_so_and_keeps_what_was_written(tab: Tab, origin: str) -> None:
    await sign_in(tab, origin, email="niaj@example.com", button="signup")
    await tab.type("prompt", PROMPT)
    await tab.evaluate("sessionStorage.setItem('ai-sdk-server.token', 'expired')")
    await tab.click("#ask button")
    await tab.until("!document.getElementById('account').hidden")
    assert await text_of(tab, "#problem") == ["Your session has ended: sign in again."]
    await tab.type("password", PASSWORD)
    await tab.click("button[value=signin]")
    await tab.until("document.querySelectorAll('#model-type option').length > 20 && " + IDLE)
    assert await tab.evaluate("document.getElementById('prompt').value") == PROMPT


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
        ".flatMap(Object.values).map((one) => one.summary))"
    )
    assert len(shown) == len(described)
    assert all(any(text.endswith(summary.replace("`", "")) for text in shown) for summary in described)
    assert tab.complaints == []


async def test_what_is_wrong_is_seen_on_a_phone(tab: Tab, origin: str) -> None:
    await tab.call("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=1, mobile=True)
    await sign_in(tab, origin, email="mallory@example.com", button="signup")
    await tab.choose("model-type", "image-to-text")
    await tab.click("#ask button")
    await tab.until("!document.getElementById('problem').hidden")
    place = await tab.evaluate("document.getElementById('problem').getBoundingClientRect().toJSON()")
    assert -1 <= place["top"] < place["bottom"] <= 640, "but for a part of a pixel"


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_fits_a_phone(tab: Tab, origin: str, path: str) -> None:
    await tab.call("Emulation.setDeviceMetricsOverride", width=360, height=780, deviceScaleFactor=1, mobile=True)
    await tab.open(origin + path)
    await tab.until("document.body.innerText.length > 20")
    assert await tab.evaluate("document.documentElement.scrollWidth") <= 360
