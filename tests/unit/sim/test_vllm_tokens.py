"""The simulated vLLM model with a real tokenizer."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

from app.sim import VllmConfig, VllmSim
from app.sim.folder_tokenizer import FolderTokenizer
from app.sim.small_tokenizer import write_small_tokenizer
from app.upstream.generated import common_pb2
from app.upstream.generated import vllm_engine_pb2 as pb


async def test_readable_text_with_a_real_tokenizer(talk: Any, tmp_path: Path) -> None:
    """It depends on the prompt, stops at strings, ends with the folder's EOS."""
    write_small_tokenizer(tmp_path)
    tokenizer = FolderTokenizer(tmp_path)
    prompt = list(tokenizer.encode("<|im_start|>user\nHow are pairs paired?<|im_end|>"))
    config = VllmConfig(role="regular", connector="", tokenizer_folder=tmp_path)
    async with VllmSim(config, tokenizer) as sim:
        order = talk.request("")
        order.tokenized.input_ids.extend(prompt)
        stub = await talk.stub(sim)
        [message] = [m async for m in stub.Generate(order)]
        end = message.complete
        assert "How are pairs paired?" in tokenizer.decode(end.output_ids)
        assert sim.mark(prompt) in tokenizer.decode(end.output_ids)
        assert end.output_ids[-1] == tokenizer.eos_id
        order.sampling_params.stop.append("answer")
        [message] = [m async for m in stub.Generate(order)]
        assert message.complete.matched_stop_str == "answer"
        assert tokenizer.decode(message.complete.output_ids).endswith("answer")
        info = await stub.GetModelInfo(pb.GetModelInfoRequest())
        assert (info.vocab_size, list(info.eos_token_ids)) == (
            tokenizer.n_vocab,
            [tokenizer.eos_id],
        )
        assert max(prompt) < tokenizer.n_vocab
        call = stub.GetTokenizer(common_pb2.GetTokenizerRequest())
        data = b"".join([chunk.data async for chunk in call])
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
        assert {"tokenizer.json", "tokenizer_config.json", "config.json"} <= set(names)
