"""Browser for tests: headless Chromium, controlled over the DevTools protocol."""

import asyncio
import base64
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

_MAX_SECONDS = 60
_FLAGS = [
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-port=0",
    # Chromium's sandbox does not work as root, as in containers; the only page is the tests' own.
    "--no-sandbox",
]


class Tab:
    """A page in the browser.

    Attributes:
      requested: URLs that the page requested.
      problems: Errors and warnings in its console, and uncaught exceptions.
    """

    def __init__(self, socket):
        self.requested, self.problems = [], []
        self._socket, self._answers = socket, {}
        self._number, self._loads = 0, 0
        self.reader = asyncio.create_task(self._read())

    async def _read(self):
        while (text := await self._socket.read_message()) is not None:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            else:
                self._note(message["method"], message["params"])

    def _note(self, method, params):
        if method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def call(self, method, **params):
        """Calls a method of the protocol and returns its result."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        message = {"id": self._number, "method": method, "params": params}
        await self._socket.write_message(json.dumps(message))
        found = await asyncio.wait_for(answer, _MAX_SECONDS)
        assert "error" not in found, found["error"]
        return found["result"]

    async def open(self, address):
        """Opens a URL, and records requests and problems from then on."""
        for domain in ("Network", "Runtime", "Log", "Page"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=address)

    async def value(self, expression):
        """Returns the value of a JavaScript expression in the page."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def wait_for(self, expression):
        """Waits until a JavaScript expression is true."""
        deadline = time.monotonic() + _MAX_SECONDS
        while not await self.value(expression):
            assert time.monotonic() < deadline, f"Not so in time: {expression}"
            await asyncio.sleep(0.1)

    async def show(self, width, height=800, colours="light"):
        """Sets the window's size in CSS pixels and the preferred colour scheme, light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        await self.call("Emulation.setDeviceMetricsOverride", mobile=width < 600, **size)
        feature = {"name": "prefers-color-scheme", "value": colours}
        await self.call("Emulation.setEmulatedMedia", features=[feature])

    async def picture(self):
        """Returns a screenshot of the window as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])


@contextlib.asynccontextmanager
async def open_tab(folder: pathlib.Path):
    """Starts a browser that keeps its files in a folder, and yields its only page."""
    path = shutil.which("chromium")
    assert path, "Expected Chromium on this machine. Install Debian's package chromium."
    command = [path, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    try:
        port = await _port(folder, process)
        socket = await websocket_connect(await _page_address(port), max_message_size=2**26)
        tab = Tab(socket)
        try:
            yield tab
        finally:
            socket.close()
            await tab.reader
    finally:
        # Kills all of the browser's processes, which form a group.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def _port(folder, process):
    told = folder / "DevToolsActivePort"
    deadline = time.monotonic() + _MAX_SECONDS
    while not (told.exists() and told.read_text().count("\n")):
        assert process.poll() is None, f"Chromium ended with {process.returncode}."
        assert time.monotonic() < deadline, "Chromium did not tell its port in time."
        await asyncio.sleep(0.1)
    return int(told.read_text().split("\n")[0])


async def _page_address(port):
    answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/list")
    pages = [target for target in json.loads(answer.body) if target["type"] == "page"]
    return pages[0]["webSocketDebuggerUrl"]
