"""A Llama of two layers and sixty words with random weights, for tests that train."""

from __future__ import annotations

from pathlib import Path

from domainlm.config import make_config
from domainlm.config.training import TrainingConfig
from domainlm.schema import Chat, Message, TrainingRow

WORDS = (
    "what is the colour of a pump valve gate weir lock dam red green blue white black old new "
    "not in documents answer question passage complete item one two three four five six seven "
    "eight nine ten yes no . , : ? [ ] 1 2 3 system user assistant"
).split()
TEMPLATE = (
    "{% for m in messages %}{{ '<s> ' + m['role'] + ' ' + m['content'] + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s> assistant ' }}{% endif %}"
)


def save_tiny(folder: Path, seed: int = 0) -> Path:
    """Write model and tokenizer as `save_pretrained` does."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys([*special, *WORDS]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = TEMPLATE
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.2,
        )
    ).bfloat16()
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def ask(text: str) -> Chat:
    """A prompt of one user turn."""
    return (Message("user", text),)


def row(n: int, completion: str = "red") -> TrainingRow:
    """One question-answer pair; `n` makes prompts differ."""
    word = WORDS[n % len(WORDS)]
    return TrainingRow(str(n), ask(f"what is the {word} ?"), completion, "closed_book", str(n))


def training(**settings: object) -> TrainingConfig:
    """Training settings for a run of milliseconds."""
    small = {"rank": 4, "alpha": 8, "prefix_tokens": 4, "max_tokens": 128, "batch_size": 4}
    raw = {"documents": "d", "questions": "q", "training": small | settings}
    return make_config(raw).training
