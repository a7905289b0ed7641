"""A model's folder for the gRPC path: a small tokenizer that also knows the stub's words."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from app.sim.small_tokenizer import write_small_tokenizer

N_WORDS = 4096


def write_model(folder: Path) -> int:
    """Writes the files of a model; returns the id of its token ``" w000000"``.

    Token id + i is ``" w%06d" % i`` up to ``N_WORDS``, which lets the load generator check order
    and completeness. No text is encoded to them: nothing merges into them.
    """
    write_small_tokenizer(folder)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    added = [token["id"] for token in document["added_tokens"]]
    first_id: int = 1 + max(*vocabulary.values(), *added)
    # The byte-level way to write a space.
    vocabulary |= {f"\u0120w{i:06d}": first_id + i for i in range(N_WORDS)}
    path.write_text(json.dumps(document))
    config = json.loads((folder / "config.json").read_text())
    config |= {"vocab_size": first_id + N_WORDS, "max_position_embeddings": 1_048_576}
    (folder / "config.json").write_text(json.dumps(config))
    return first_id
