"""A real Chromium without a window, driven over the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientSession, ClientWebSocketResponse

from tests.ssh.waiting import until

COMMANDS: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
SECONDS: Final = 60.0

KEEP_TERMINAL: Final = """
Object.defineProperty(Object.prototype, "terminal", {
  configurable: true,
  set(value) {
    Object.defineProperty(this, "terminal", {value, writable: true, configurable: true, enumerable: true});
    window.keptTerminal = value;
  },
});
"""
"""The page keeps its xterm.js to itself; this lets one read what it shows."""
KEEP_BLOCKED: Final = """
window.keptBlocked = [];
document.addEventListener("securitypolicyviolation", (event) => keptBlocked.push(event.blockedURI));
"""
SHOWN: Final = """
(() => {
  const buffer = window.keptTerminal?.buffer.active;
  if (!buffer) return "";
  const rows = Array.from({length: buffer.length}, (_, y) => buffer.getLine(y).translateToString(true));
  return rows.join("\\n");
})()
"""
COLOURS: Final = """
(async () => {
  const bytes = Uint8Array.from(atob("%s"), (character) => character.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes]));
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  return new Set(new Uint32Array(canvas.getImageData(0, 0, image.width, image.height).data.buffer)).size;
})()
"""


def browser() -> str | None:
    """Return the command of an installed Chromium, if any."""
    return next(filter(None, map(shutil.which, COMMANDS)), None)


class Tab:
    """One open page."""

    def __init__(self, devtools: DevTools, target: str, session: str) -> None:
        self._devtools = devtools
        self._target = target
        self._session = session

    async def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression, or what it promises, comes to."""
        answer = await self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def shows(self, *pieces: str) -> str:
        """Wait until xterm.js shows all pieces of text, and return everything it shows."""
        text = ""
        try:
            async with asyncio.timeout(SECONDS):
                while not all(piece in text for piece in pieces):
                    await asyncio.sleep(0.05)
                    text = await self.evaluate(SHOWN)
        except TimeoutError:
            raise AssertionError(f"{pieces} never came; the page shows:\n{text}") from None
        return text

    async def press(self, key: str) -> None:
        """Press and release a key that is a character."""
        await self._call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        await self._call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def picture(self, path: Path) -> int:
        """Keep what is drawn as a PNG and return how many colours it has."""
        data = (await self._call("Page.captureScreenshot"))["data"]
        path.write_bytes(base64.b64decode(data))
        return int(await self.evaluate(COLOURS % data))

    async def close(self) -> None:
        """Close the tab, as a person does."""
        await self._devtools.call("Target.closeTarget", targetId=self._target)

    async def _call(self, method: str, **values: Any) -> dict[str, Any]:
        return await self._devtools.call(method, self._session, **values)

    async def open(self, address: str) -> None:
        """Go to an address."""
        await self._call("Page.enable")
        await self._call("Page.addScriptToEvaluateOnNewDocument", source=KEEP_TERMINAL + KEEP_BLOCKED)
        await self._call("Page.navigate", url=address)


class DevTools:
    """The browser's side of the protocol."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, session: str | None = None, **values: Any) -> dict[str, Any]:
        """Call a method and return its result; events that come before are passed over."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": values} | ({"sessionId": session} if session else {})
        await self._socket.send_json(message)
        async with asyncio.timeout(SECONDS):
            while (answer := await self._socket.receive_json()).get("id") != number:
                pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    async def tab(self, address: str) -> Tab:
        """Open an address in a new tab."""
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        tab = Tab(self, target, session)
        await tab.open(address)
        return tab


@asynccontextmanager
async def chromium(command: str, folder: Path) -> AsyncIterator[DevTools]:
    """Run a browser whose settings are in ``folder``, which it makes."""
    root = ("--no-sandbox",) if os.getuid() == 0 else ()
    process = await asyncio.create_subprocess_exec(
        command,
        *("--headless", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--window-size=1280,800"),
        *("--disable-gpu", "--no-first-run", "--no-default-browser-check", "--disable-background-networking"),
        *("--disable-dev-shm-usage", "--no-proxy-server", *root),
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with ClientSession() as client, client.ws_connect(await _address(folder), max_msg_size=0) as socket:
            yield DevTools(socket)
    finally:
        # Some of the commands are shell scripts with the browser as their child, so the group it is.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _address(folder: Path) -> str:
    """Wait until the browser has written down where it listens."""
    written = folder / "DevToolsActivePort"
    await until(lambda: written.is_file() and len(written.read_text("utf-8").split()) == 2, SECONDS)
    port, path = written.read_text("utf-8").split()
    return f"ws://127.0.0.1:{port}{path}"
