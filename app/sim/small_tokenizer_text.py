"""What the small tokenizer is trained on, and its chat template."""

from __future__ import annotations

# Plain sentences, code and JSON: enough for words to become tokens.
_TEXT = """\
The gateway takes a request, chooses a prefill worker and a decode worker, and relays the answer
to the client token by token while the engine is still working on it.


A prefill worker reads the whole prompt once and fills the cache; a decode worker takes the
cache over and writes one token after another until it meets the end of the answer.


Please explain in simple words how the weather in Paris, London, Berlin and Tokyo will be today
and tomorrow: is it going to rain, or will the sun shine all day long?


I would like to know what time it is, where we are, who they were, and why nobody has told me
before. You can answer with a short list of three or four items.


First think about the question, then say what you think; do not make things up, and if you do
not know the answer just say that you do not know.


You are a helpful assistant. Hello! How can I help you? Thank you very much, that is right. Yes,
of course. No, sorry, this is not possible. See you soon.


One two three four five six seven eight nine ten, eleven twelve twenty hundred thousand. 0 1 2 3
4 5 6 7 8 9 10 42 100 1000 2024 3.14


There was once a small house at the end of a long street near the river, and in this house lived
an old woman with her cat, two birds and a great many books about the sea.


Water, fire, earth and air; red, green, blue, white and black; north, south, east and west;
spring, summer, autumn and winter; morning, noon, evening and night.


Because some people work better in the morning, others should rather start after lunch and leave
late; between them there must be at least an hour in which everyone is present.


He gave her his first letter; she read it twice, put it back into its envelope and looked out of
the window for a while. They never spoke about it again.


The system under test should return the same result for the same input every time, under load as
well, however many users, requests, messages or functions there are.


def main(name: str, value: int = 0) -> None:
    # print the value
    for index in range(10):
        if value is not None and index != value:
            print(f"{name} {index}")
    return None


import json
from pathlib import Path

class Worker:
    def __init__(self, url):
        self.url = url

    async def call(self, request):
        return await self.send(request)


{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius", "days": 3}}


{"type": "function", "function": {"name": "search", "description": "Search the text.",
"parameters": {"type": "object", "properties": {"query": {"type": "string"}, "limit": {"type":
"integer"}}, "required": ["query"]}}}


system
user
assistant
tool
You may call one or more functions to help with the question.


- item one
- item two

## Heading

1. first
2. second

| a | b |
| --- | --- |


Le chat est sur la table et le chien dort. Wie geht es dir heute? Der Zug fährt um acht Uhr ab.
¿Dónde está la biblioteca? Café naïve über straße.
"""
CORPUS = _TEXT.split("\n\n\n")

# ChatML with tools, earlier thoughts and a switch for thinking.
CHAT_TEMPLATE = """\
{%- if bos_token %}{{ bos_token }}{% endif %}
{%- set system = '' %}
{%- if messages and messages[0].role == 'system' %}{% set system = messages[0].content %}{% endif %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if system %}{{ system + '\\n\\n' }}{% endif %}
    {{- 'You may call these functions:\\n<tools>\\n' }}
    {%- for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}
    {{- '</tools>\\nWrite a call as <tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call>' }}
    {{- '<|im_end|>\\n' }}
{%- elif system %}
    {{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- if not loop.first %}
            {{- raise_exception('The system message must come first.') }}
        {%- endif %}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if message.reasoning_content %}
            {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
        {%- endif %}
        {%- generation %}{{ message.content or '' }}{% endgeneration %}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n' }}
            {{- {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
            {{- '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
