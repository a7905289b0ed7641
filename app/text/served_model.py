"""What is known of the model behind a pool, before any request comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.text.client_templates import ClientTemplates
from app.text.parsers import reasoning_parsers, tool_parsers
from app.text.parsers.reasoning_parsers import ThoughtFormat
from app.text.parsers.tool_parsers import ToolFormat
from app.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What is known of the model behind the pool.

    Attributes:
        name: The name it is served under.
        tokenizer: Its tokenizer and chat template.
        max_context: Tokens of prompt and answer together; ``None`` while unknown.
        defaults: The decode worker's default sampling parameters.
        tool_format: How it writes tool calls; ``NONE`` leaves them in the content.
        tool_parser: The name by which the operator has chosen ``tool_format``; ``None`` if the
            model's name has.
        thought_format: How it marks its thoughts; ``NONE`` leaves them in the content.
        eos_ids: Tokens that end an answer: the tokenizer's and those the worker names.
        constrains_after_thought: A constraint binds what follows the thought (the worker says
            ``constrained_decoding_start`` = ``after_reasoning``); else it binds from the first
            token, so that no thought can come.
        constrains_first_token: The worker says that it does the latter; some say neither.
        client_templates: Renders with templates that clients send; ``None`` refuses them, which
            is vLLM's default, too.
    """

    name: str
    tokenizer: Tokenizer
    max_context: int | None
    defaults: Mapping[str, float] = field(default_factory=dict)
    tool_format: ToolFormat = tool_parsers.NONE
    tool_parser: str | None = None
    thought_format: ThoughtFormat = reasoning_parsers.NONE
    eos_ids: frozenset[int] = frozenset()
    constrains_after_thought: bool = False
    constrains_first_token: bool = False
    client_templates: ClientTemplates | None = None
