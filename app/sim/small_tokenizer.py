"""A small tokenizer, trained here, so that simulated vLLM workers speak readable text.

Two kinds stand for the two families that real models use:

- ``bytelevel``: BPE over bytes, as Llama 3, Qwen or DeepSeek; no BOS token.
- ``sentencepiece``: BPE over characters with ``\u2581`` for a space, bytes as
  ``<0xNN>`` for what it does not know, and BOS put first, as Llama 2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from app.sim.small_tokenizer_text import CHAT_TEMPLATE, CORPUS

Kind = Literal["bytelevel", "sentencepiece"]

N_VOCABULARY = 2048
MAX_LENGTH = 4096
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Real models keep these visible when special tokens are skipped: parsers look for them.
MARKERS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_SPACE = "\u2581"


def write_small_tokenizer(folder: Path, *, kind: Kind = "bytelevel") -> None:
    """Writes tokenizer.json, tokenizer_config.json, config.json and generation_config.json.

    Takes about 50 ms and writes the same bytes every time. Any text comes
    back from its token ids. EOS is ``<|im_end|>``; generation_config.json
    names ``<|endoftext|>`` as a second one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _bytelevel() if kind == "bytelevel" else _sentencepiece()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    bos = "<s>" if kind == "sentencepiece" else None
    end_ids = [tokenizer.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>")]
    documents = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": "<unk>" if bos else None,
            "model_max_length": MAX_LENGTH,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": tokenizer.get_vocab_size(),
            "max_position_embeddings": MAX_LENGTH,
            "bos_token_id": tokenizer.token_to_id(bos) if bos else None,
            "eos_token_id": end_ids[0],
        },
        "generation_config.json": {"eos_token_id": end_ids, "temperature": 0.7, "top_p": 0.9},
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=1), encoding="utf-8")


def _added_tokens(*more: str) -> list[AddedToken]:
    special = [AddedToken(text, special=True, normalized=False) for text in (*more, *SPECIAL)]
    return special + [AddedToken(text, special=False, normalized=False) for text in MARKERS]


def _bytelevel() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    added = _added_tokens()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCABULARY - len(added),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(added)
    return tokenizer


def _sentencepiece() -> Tokenizer:
    # Words are trained apart; afterwards the text is one piece, as SentencePiece has it.
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, split=True)
    added = _added_tokens()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCABULARY - len(added),
        show_progress=False,
        special_tokens=["<unk>", "<s>", *_BYTES],
        limit_alphabet=96,
    )
    trained.train_from_iterator(CORPUS, trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=model["vocab"],
            merges=[(left, right) for left, right in model["merges"]],
            unk_token="<unk>",  # noqa: S106 - a vocabulary entry
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=_SPACE, prepend_scheme="first", split=False
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_tokens(_added_tokens("<unk>", "<s>"))
    bos = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[bos]
    )
    return tokenizer
