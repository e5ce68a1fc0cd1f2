"""Fixtures that every folder of tests shares: the embedded models, loaded once per session."""

import os
import shutil

# Before torch is imported: tests run beside other work, and fixed threads make timings steady.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

from domainlm.errors import ModelError  # noqa: E402


@pytest.fixture(scope="session")
def embedded_folder() -> Path:
    """The converted chat checkpoint in the user's own cache, so that it is converted once ever."""
    from domainlm.models.embedded import ensure_checkpoint

    try:
        return ensure_checkpoint()
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def embedded_model(embedded_folder):
    """The embedded chat model, ready to generate."""
    from domainlm.models.local import LocalModel

    return LocalModel(embedded_folder, name="SmolLM2-135M-Instruct")


@pytest.fixture(scope="session")
def embedded_embedder():
    """The packaged all-MiniLM-L6-v2."""
    from domainlm.models.embedding import MiniLMEmbedder

    try:
        return MiniLMEmbedder()
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium whose log of errors can be read."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-component-update "
    flags += "disable-background-networking disable-sync "
    flags += f"user-data-dir={tmp_path_factory.mktemp('profile')}"
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()
