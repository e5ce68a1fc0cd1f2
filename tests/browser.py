"""A headless Chromium for tests of pages; tests that want one are skipped where there is none."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
_FLAGS = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-component-update "
    "disable-background-networking disable-sync hide-scrollbars"
)


def start(profile: Path) -> Any:
    """A browser with a profile of its own."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*_FLAGS.split(), f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


class Tab:
    """A browser that looks at one server."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url

    def go(self, path: str) -> None:
        """Open a page of the server."""
        self.driver.get(self.url + path)

    def js(self, code: str, *values: Any) -> Any:
        """Run a script."""
        return self.driver.execute_script(code, *values)

    def until(self, found: str | Callable[[], Any], seconds: float = 15) -> Any:
        """Wait for a selector's element or for a condition."""
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import WebDriverWait

        def look(driver: Any) -> Any:
            if callable(found):
                return found()
            return next((e for e in driver.find_elements(By.CSS_SELECTOR, found)), None)

        return WebDriverWait(self.driver, seconds, 0.05).until(look, f"waited for {found}")

    def click(self, selector: str) -> None:
        """Click as a person does: it must be there and not covered."""
        element = self.until(selector)
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def text(self, selector: str = "main") -> str:
        """What an element shows; asked in one go, since a swap may come between."""
        seen = "const e = document.querySelector(arguments[0]); return e && [e.innerText]"
        return str(self.until(lambda: self.js(seen, selector))[0])

    def resize(self, width: int, *, mobile: bool = False, theme: str = "light") -> None:
        """Another window and theme."""
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wanted = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})

    def complaints(self) -> list[str]:
        """What the browser's console says."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


def axe_script() -> str:
    """axe-core's script from the package that carries it."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        pytest.skip("axe-playwright-python is not installed; make install brings it")
    return Path(spec.origin).with_name("axe.min.js").read_text("utf-8")
