"""Chromium without a screen, driven over its DevTools protocol (https://chromedevtools.github.io/devtools-protocol)."""

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from tests import tools

START_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 20.0
FLAGS = (
    "--headless",
    "--no-sandbox",  # tests run as root in CI; the pages are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--window-size=1000,900",
)


class Tab:
    """One page. `complaints` holds what the browser reported: violations of the policy, errors, failed loads."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self._socket = socket
        self._numbers = count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}

    async def run(self) -> None:
        """Receive until the browser goes away."""
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            if "id" in event:
                if not (reply := self._replies.pop(event["id"])).done():  # its caller may have given up
                    reply.set_result(event)
            elif complaint := _complaint(event):
                self.complaints.append(complaint)
        for reply in self._replies.values():
            reply.set_exception(ConnectionError("the browser is gone"))

    async def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol; returns its result."""
        number = next(self._numbers)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(CALL_TIMEOUT_S):
            answer = await reply
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until a JavaScript expression holds, as seen in the browser."""
        watch = f"(async () => {{ while (!({expression})) await new Promise((done) => setTimeout(done, 20)); }})()"
        try:
            await self.evaluate(watch)
        except TimeoutError:
            text = await self.evaluate("document.body.innerText")
            raise AssertionError(f"never came to pass: {expression}\n{text}\n{self.complaints}") from None

    async def type(self, element_id: str, text: str) -> None:
        """Type into a field as a keyboard would."""
        await self.evaluate(f"document.getElementById({json.dumps(element_id)}).focus()")
        await self.call("Input.insertText", text=text)

    async def choose(self, element_id: str, value: str) -> None:
        """Choose from a list, as a person would."""
        await self.evaluate(
            f"((list) => {{ list.value = {json.dumps(value)}; list.dispatchEvent(new Event('change')); }})"
            f"(document.getElementById({json.dumps(element_id)}))"
        )

    async def choose_file(self, element_id: str, path: Path) -> None:
        """Choose a file from this machine."""
        page = await self.call("DOM.getDocument")
        found = await self.call("DOM.querySelector", nodeId=page["root"]["nodeId"], selector=f"#{element_id}")
        await self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=found["nodeId"])

    async def click(self, selector: str) -> None:
        """Press the mouse in the middle of what the selector finds."""
        box = await self.evaluate(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)}); found.scrollIntoView(); "
            "const box = found.getBoundingClientRect(); "
            "return {x: box.x + box.width / 2, y: box.y + box.height / 2}; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, **box, button="left", clickCount=1)


def _complaint(event: dict[str, Any]) -> str | None:
    match event:
        case {"method": "Log.entryAdded", "params": {"entry": {"level": "error" | "warning", **entry}}}:
            return f"{entry['source']}: {entry['text']} {entry.get('url', '')}"
        case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
            return f"exception: {details}"
        case {"method": "Audits.issueAdded", "params": {"issue": issue}}:
            return f"issue: {issue}"
    return None


@contextlib.asynccontextmanager
async def browser_tab(profile: Path) -> AsyncIterator[Tab]:
    """An empty tab of a new Chromium with a profile of its own; both are gone at the end."""
    process = await asyncio.create_subprocess_exec(
        tools.CHROMIUM.require(),
        *FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(profile)},
    )
    try:
        async with (
            ClientSession() as session,
            session.ws_connect(await _tab_address(process, session), max_msg_size=0) as socket,
            asyncio.TaskGroup() as tasks,
        ):
            tab = Tab(socket)
            tasks.create_task(tab.run(), name="tab")
            for domain in ("Page", "Log", "Runtime", "Audits"):
                await tab.call(f"{domain}.enable")
            yield tab
            with contextlib.suppress(ConnectionError):
                await tab.call("Browser.close")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _tab_address(process: asyncio.subprocess.Process, session: ClientSession) -> str:
    """Where the first tab listens; Chromium says on stderr which port it chose."""
    assert process.stderr is not None
    said = []
    async with asyncio.timeout(START_TIMEOUT_S):
        async for line in process.stderr:
            said.append(line.decode())
            if found := re.search(rb"DevTools listening on ws://(\S+?)/", line):
                async with session.get(f"http://{found[1].decode()}/json/list") as response:
                    tabs = await response.json()
                return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
    raise AssertionError(f"Chromium ended before it listened:\n{''.join(said)}")
