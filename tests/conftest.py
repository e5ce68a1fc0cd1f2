"""Fixtures that every folder of tests shares: the embedded models, loaded once per session."""

import os

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
