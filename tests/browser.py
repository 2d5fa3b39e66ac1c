"""A headless Chromium for tests, driven through chromedriver's own interface; tests skip where there is none."""

import base64
import json
import shutil
import subprocess
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

OVERFLOWING = """
const wide = document.documentElement.clientWidth;
const clipped = one => { for (let up = one.parentElement; up; up = up.parentElement)
  if (getComputedStyle(up).overflowX === 'auto') return true; return false; };
return [...document.body.querySelectorAll('*')]
  .filter(one => one.getBoundingClientRect().right > wide + 1 && !clipped(one))
  .map(one => one.tagName + '.' + one.className + ': ' + one.textContent.slice(0, 40));
"""


def find_chromium() -> tuple[str, str]:
    """Return the paths of Chromium and its driver, or skip the test."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no headless Chromium here: the Debian packages chromium and chromium-driver have it")
    return browser, driver


class Browser:
    """One session."""

    def __init__(self, address: str, binary: str) -> None:
        self.address = address
        options = {
            "binary": binary,
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--disable-dev-shm-usage",
            ],
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())["value"]

    def command(self, name: str, **body) -> dict:
        """Send one command of the session."""
        return self._post(f"/session/{self.session}/{name}", body)

    def devtools(self, name: str, **parameters) -> dict:
        """Send one command of the DevTools protocol."""
        return self.command("goog/cdp/execute", cmd=name, params=parameters)

    def open(self, path: Path, *, width: int, dark: bool = False) -> None:
        """Show a file at a width, in light or dark."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self.command("url", url=path.resolve().as_uri())

    def run(self, script: str):
        """Run a script's body in the page and return what it returns."""
        return self.command("execute/sync", script=script, args=[])

    def overflowing(self) -> list[str]:
        """List elements that stick out of the page to the right."""
        return self.run(OVERFLOWING)

    def console(self) -> list[str]:
        """List what the page wrote to the console since the last call."""
        return [entry["message"] for entry in self.command("se/log", type="browser")]

    def screenshot(self, path: Path) -> None:
        """Save the whole page as a picture."""
        height = self.run("return document.documentElement.scrollHeight")
        width = self.run("return window.innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def open_browser():
    """Start a driver and a session, and end both; skips where there is no Chromium."""
    binary, driver = find_chromium()
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        port = _port_of(process)
        browser = Browser(f"http://127.0.0.1:{port}", binary)
        try:
            yield browser
        finally:
            request = urllib.request.Request(f"{browser.address}/session/{browser.session}", method="DELETE")
            urllib.request.urlopen(request, timeout=60).close()
    finally:
        process.terminate()
        process.wait(30)


def _port_of(process: subprocess.Popen) -> int:
    """Read the port that the driver chose from what it prints."""
    assert process.stdout is not None
    for line in process.stdout:
        if "successfully on port " in line:
            return int(line.rpartition("on port ")[2].strip().rstrip("."))
    raise RuntimeError("chromedriver ended without saying its port")
