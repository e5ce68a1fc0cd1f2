"""Chat models that run in this process: any transformers checkpoint, with or without an adapter.

Decoding is an own loop over left-padded batches that chats join and leave, rather than
`generate()`: it draws each chat's samples from its own seed, and a short answer does not wait for a
long one.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import jinja2
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from domainlm.errors import ConfigError, ModelError
from domainlm.models.adapted import (
    Prefix,
    adapter_digest,
    apply_adapter,
    is_checkpoint,
    prefixed_cache,
)
from domainlm.models.attention import use_groups
from domainlm.models.base import Listener, Request, absent_folder, means_folder, report_call
from domainlm.models.decoding import (
    end_tokens,
    render_prompt,
    stream_seed,
)
from domainlm.models.embedded import MODEL_NAME, ensure_checkpoint, first_line, quiet_loading
from domainlm.models.mixed import can_mix
from domainlm.models.packed import pack
from domainlm.models.pieces import Piecewise, stop_at
from domainlm.models.running import Batch, Running, decode
from domainlm.models.shared import Beginnings
from domainlm.schema import Chat, Generation, Sampling, Usage


class LocalModel:
    """A transformers checkpoint behind the `ChatModel` contract.

    A LoRA adapter is merged into the weights in fp32 and cast once, because decoding with separate
    adapter layers costs two more small products per layer and token. The merged bf16 model
    differs from the adapter by about 3e-3, so what is served here is also what must be gated.
    A trained prefix fills the cache before the prompt; a fully tuned checkpoint replaces the base.

    Greedy decoding gives the same text alone and in a batch up to ties within bf16 rounding.
    With a temperature, each chat draws from its own stream, seeded by the settings' seed, the
    prompt and how often the prompt has occurred in the call: batches do not matter, repeats differ.
    """

    def __init__(
        self,
        path_or_id: str | Path,
        adapter: Path | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        allow_download: bool = False,
        name: str | None = None,
    ) -> None:
        """Load weights and tokenizer.

        Args:
            path_or_id: A folder, or a hub id (from the hub's local cache unless `allow_download`).
            adapter: Folder of what was trained on this checkpoint.
            dtype: "bfloat16", "float16", "float32", or "auto" for what the device computes fast.
            device: "cpu", "cuda", "mps", or "auto" for the first accelerator found.
            batch_size: Most chats per batch (default 16, on an accelerator 64).
            batch_tokens: Most padded tokens that a batch keeps, of which a quarter is read at once
                (default 16384, on an accelerator 131072).
            allow_download: May fetch a hub id.
            name: Name in results; the default is the last part of the path or the hub id, with
                the adapter's digest.

        Raises:
            ModelError: no such checkpoint, no chat template, or the adapter does not fit.
        """
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.source = find_checkpoint(path_or_id, allow_download=allow_download)
        on_cpu = self.device.type == "cpu"
        self.batch_size = batch_size or (16 if on_cpu else 64)
        self.batch_tokens = batch_tokens or (16_384 if on_cpu else 131_072)
        base = name or (Path(path_or_id).name if Path(path_or_id).is_dir() else str(path_or_id))
        self.name = f"{base}+{adapter_digest(adapter)}" if adapter else base
        whole = adapter is not None and is_checkpoint(adapter)
        prefix: Prefix = ()
        with quiet_loading(allow_download):
            try:
                self.tokenizer = AutoTokenizer.from_pretrained(
                    self.source, local_files_only=not allow_download
                )
                model = AutoModelForCausalLM.from_pretrained(
                    adapter if whole else self.source,
                    dtype=torch.float32 if adapter and not whole else self.dtype,
                    local_files_only=not allow_download,
                )
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise ModelError(
                    f"cannot load the model {path_or_id} ({first_line(error)}); give a folder "
                    "saved by save_pretrained, or a hub id"
                ) from None
            if adapter and not whole:
                model, prefix = apply_adapter(model, adapter)
        if not self.tokenizer.chat_template:
            raise ModelError(f"{path_or_id} has no chat template; choose an instruct model")
        self.model = model.to(device=self.device, dtype=self.dtype).eval()
        use_groups(self.model)
        pack(self.model)
        self._prefix: Prefix = tuple(
            (k.to(self.device, self.dtype), v.to(self.device, self.dtype)) for k, v in prefix
        )
        self._beginnings = Beginnings(self.model, self._prefix)
        self._mixes: bool | None = None
        self._virtual = prefix[0][0].shape[2] if prefix else 0
        longest = int(model.config.get_text_config().max_position_embeddings)
        self.context = longest - self._virtual
        self.end = frozenset(end_tokens(self.tokenizer, model.generation_config))
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        return f"LocalModel({self.name!r}, {self.device}, {self.dtype})"

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, without special ones."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def generate(self, chats: Sequence[Chat], params: Sampling) -> list[Generation]:
        """Complete each chat; one that overflows the context yields an error generation.

        `latency_s` is the chat's share of the batch's time, `first_token_s` counts from this call;
        `tokens_out` includes the end token.

        Raises:
            ConfigError: `max_tokens` is below 1.
        """
        return self.generate_streamed(chats, params, ())

    def generate_streamed(
        self, chats: Sequence[Chat], params: Sampling, listeners: Sequence[Listener]
    ) -> list[Generation]:
        """See `StreamingModel.generate_streamed`; without listeners nobody is told.

        Raises:
            ConfigError: `max_tokens` is below 1.
        """
        if params.max_tokens < 1:
            raise ConfigError(f"max_tokens is {params.max_tokens}; it must be at least 1")
        started = time.perf_counter()
        seen = Counter[Chat]()
        done: dict[int, Generation] = {}
        requests = []
        for n, chat in enumerate(chats):
            listener = listeners[n] if listeners else None
            finish = partial(done.__setitem__, n)
            repeat = seen[tuple(chat)]
            requests.append(Request(chat, params, listener, finish, repeat, started))
            seen[tuple(chat)] += 1
        coming = self._entered(requests)
        # Like with like; longest first, so that a shortage of memory shows at once.
        coming.sort(key=lambda chat: -len(chat.prompt))
        queue = iter(coming)
        self._decode(lambda most: list(itertools.islice(queue, most)))
        ordered = [done[n] for n in range(len(chats))]
        for g in ordered:
            tokens = g.usage
            report_call(self.name, "generate", tokens.tokens_in, tokens.tokens_out, g.latency_s)
        return ordered

    def generate_joining(self, take: Callable[[int], Sequence[Request]]) -> None:
        """See `JoiningModel.generate_joining`."""

        def entered(most: int) -> list[Running]:
            while requests := take(most):
                # Those that do not fit have ended at once.
                if chats := self._entered(requests):
                    return chats
            return []

        self._decode(entered)

    def generate_ensemble(
        self,
        groups: Sequence[Sequence[Chat]],
        weights: Sequence[Sequence[float]],
        params: Sampling,
    ) -> list[Generation]:
        """See `EnsembleModel.generate_ensemble`."""
        from domainlm.models.ensemble import generate_ensemble

        return generate_ensemble(self, groups, weights, params)

    def surprise(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Mean negative log-likelihood per token, in nats, of each text after its context."""
        if not pairs:
            return []
        started = time.perf_counter()
        # Passages are data: a control token spelled out in them is plain text.
        plain = {"add_special_tokens": False, "split_special_tokens": True}
        contexts = self.tokenizer([c for c, _ in pairs], **plain)["input_ids"]
        texts = self.tokenizer([t for _, t in pairs], **plain)["input_ids"]
        # A context that leaves its text no room is cut at its end.
        contexts = [
            c[: max(self.context - len(t), 0)] for c, t in zip(contexts, texts, strict=True)
        ]
        rows = [(c + t)[: self.context] for c, t in zip(contexts, texts, strict=True)]
        found = [0.0] * len(pairs)
        lengths = [len(row) for row in rows]
        with self.lock, torch.inference_mode():
            for batch in plan_batches(range(len(rows)), lengths, self.batch_size, 2_048):
                width = max(lengths[i] for i in batch)
                ids = torch.zeros(len(batch), width, dtype=torch.long, device=self.device)
                for n, i in enumerate(batch):
                    ids[n, : lengths[i]] = torch.tensor(rows[i], device=self.device)
                spans = [range(max(len(contexts[i]) - 1, 0), lengths[i] - 1) for i in batch]
                kept = sorted({column for span in spans for column in span})
                if not kept:
                    continue
                # Padding stands to the right: a causal model never looks there.
                columns = torch.tensor(kept, device=self.device)
                logits = self._scores(ids, columns).float()
                wanted = ids[:, columns + 1, None]
                picked = torch.log_softmax(logits, -1).gather(2, wanted)[..., 0]
                for n, (i, span) in enumerate(zip(batch, spans, strict=True)):
                    if span:
                        first = kept.index(span[0])
                        found[i] = -float(picked[n, first : first + len(span)].mean())
        report_call(self.name, "generate", sum(lengths), 0, time.perf_counter() - started)
        return found

    def _scores(self, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Logits of rows `(b, s)` at p columns, `(b, p, v)`; a vocabulary is large."""
        if not self._prefix:
            return self.model(input_ids=ids, use_cache=False, logits_to_keep=columns).logits
        cache = prefixed_cache(self.model.config, self._prefix, len(ids))
        return self.model(input_ids=ids, past_key_values=cache, logits_to_keep=columns).logits

    def _entered(self, requests: Sequence[Request]) -> list[Running]:
        """Chats on their way into a batch; those that cannot be read or are too long fail alone."""
        chats = []
        for request in requests:
            params, reason = request.params, ""
            room = self.context - params.max_tokens
            try:
                text = render_prompt(self.tokenizer, request.chat)
                prompt = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            # A template refuses roles, a tokenizer what is not valid Unicode.
            except (jinja2.TemplateError, TypeError, ValueError) as error:
                reason = f"{self.name} cannot read the prompt ({first_line(error)}); ask otherwise"
            else:
                if len(prompt) > room:
                    reason = (
                        f"the prompt has {len(prompt)} tokens, but {self.name} reads at most "
                        f"{room} beside {params.max_tokens} new ones; retrieve fewer or shorter "
                        "passages"
                    )
            if reason:
                request.done(Generation("", Usage(), 0.0, self.name, "error", reason))
            else:
                seed = stream_seed(params.seed, text, request.repeat)
                chats.append(self._running(request, prompt, seed))
        return chats

    def _running(self, request: Request, prompt: list[int], seed: int) -> Running:
        params = request.params
        told = Piecewise(request.listener, params.stop) if request.listener else None

        def heard(tokens: list[int]) -> bool:
            if tokens[-1] in self.end or len(tokens) >= params.max_tokens:
                return False
            if params.stop and stop_at(self.tokenizer.decode(tokens), params.stop) is not None:
                return False
            return told is None or told.grow(self._text(tokens))

        def done(chat: Running, error: str) -> None:
            if error:
                made = Generation("", Usage(), 0.0, self.name, "error", f"{self.device}: {error}")
            else:
                made = self._generation(chat, params, request.asked)
            if told is not None:
                told.end(made.text)
            request.done(made)

        return Running(prompt, params.temperature, seed, heard, done)

    def _generation(self, chat: Running, params: Sampling, asked: float) -> Generation:
        written = chat.written
        text = self._text(written.tokens)
        cut = stop_at(text, params.stop)
        ended = cut is not None or written.tokens[-1] in self.end
        return Generation(
            text=text[:cut].strip(),
            usage=Usage(len(chat.prompt), len(written.tokens)),
            latency_s=chat.seconds,
            model=self.name,
            finish="stop" if ended else "length",
            first_token_s=chat.first - asked,
            certainty=written.certainty(),
        )

    def _decode(self, take: Callable[[int], Sequence[Running]]) -> None:
        pad = self.tokenizer.pad_token_id or 0

        def empty() -> Batch:
            return Batch(self.model, self._beginnings, pad=pad, mixes=bool(self._mixes))

        with self.lock, torch.inference_mode():
            if self._mixes is None:
                self._mixes = can_mix(self.model)
            decode(empty, take, size=self.batch_size, tokens=self.batch_tokens)

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def plan_batches(
    items: Sequence[int], lengths: Sequence[int], size: int, tokens: int
) -> Iterator[list[int]]:
    """Group items of like length, longest first, within both limits; one item always fits.

    Longest first, so that a shortage of memory shows at once.
    """
    batch: list[int] = []
    for item in sorted(items, key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) >= size or lengths[batch[0]] * (len(batch) + 1) > tokens):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def find_checkpoint(path_or_id: str | Path, *, allow_download: bool) -> str:
    """The folder, or the hub id when its configuration is at hand or may be downloaded.

    Raises:
        ModelError: neither a model folder nor an available hub id.
    """
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} has no config.json; give a folder saved by save_pretrained")
        return str(folder)
    name = str(path_or_id)
    if isinstance(path_or_id, Path) or means_folder(name):
        raise absent_folder(folder)
    with quiet_loading(allow_download):
        try:
            AutoConfig.from_pretrained(name, local_files_only=not allow_download)
        except (OSError, ValueError) as error:
            if allow_download:
                message = f"cannot get {name} from the hub ({first_line(error)}); check the id"
            else:
                message = (
                    f"the model {name} is neither a folder nor in the hub's local cache; "
                    "allow downloads or give a folder"
                )
            raise ModelError(message) from None
    return name


def pick_device(name: str) -> torch.device:
    """The named device, or for "auto" the first accelerator, else the CPU.

    Raises:
        ModelError: the device is not usable here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {name!r} is not usable here ({first_line(error)})") from None
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The named type, or for "auto" bfloat16 where the device computes it natively.

    Raises:
        ConfigError: not a floating type.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
        if device.type == "mps":
            return torch.bfloat16
        # Without hardware support bf16 on a CPU is emulated, several times slower than fp32.
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    dtypes = {t: getattr(torch, t) for t in ("bfloat16", "float16", "float32")}
    if name not in dtypes:
        raise ConfigError(f"dtype is {name!r}; use auto, {', '.join(dtypes)}")
    return dtypes[name]


def load_local(
    rest: str, *, adapter: Path | None, allow_download: bool, api_base: str, api_key_env: str
) -> LocalModel:
    """`local:<folder or hub id>` for `load_chat_model`."""
    return LocalModel(rest, adapter, allow_download=allow_download)


def load_embedded(
    rest: str, *, adapter: Path | None, allow_download: bool, api_base: str, api_key_env: str
) -> LocalModel:
    """`embedded` for `load_chat_model`."""
    folder = ensure_checkpoint(allow_download=allow_download)
    return LocalModel(folder, adapter, name=MODEL_NAME)
