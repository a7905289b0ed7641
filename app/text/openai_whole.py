"""Chat completions and text completions as one object."""

from __future__ import annotations

import orjson

from app.protocol.wire_json import JsonObject
from app.text.answer import Answer, Frames
from app.text.choice import Choice
from app.text.delta import End
from app.text.echo import prompt_tokens
from app.text.logprob_view import chat_logprobs, legacy_logprobs, prompt_logprobs
from app.text.parsers.shapes import CallDelta


class WholeAnswer(Answer):
    """An answer that is given in one piece, when all choices have ended."""

    def feed(self, slot: int, frames: Frames) -> None:
        """Takes frames of a choice, streamed or not.

        Raises:
            AnswerFailed: The engine gave up.
        """
        self.choices[slot].feed(frames)

    def head(self, kind: str) -> JsonObject:
        """The members beside choices and usage."""
        return {
            "id": self.envelope.id,
            "object": kind,
            "created": self.envelope.created_s,
            "model": self.request.model,
        }

    def end_of(self, slot: int) -> End:
        """How a choice ended.

        Raises:
            AnswerFailed: It has not.
        """
        choice = self.choices[slot]
        choice.expect_end()
        return choice.end or End("stop")


class ChatWhole(WholeAnswer):
    """A chat completion object."""

    def body(self) -> bytes:
        """Writes it.

        Raises:
            AnswerFailed: A choice has not ended.
        """
        request = self.request
        answer = self.head("chat.completion")
        answer["choices"] = [self._choice(slot) for slot in range(request.n_slots)]
        answer["usage"] = self.count.as_usage()
        if request.shown.prompt_logprobs:
            answer["prompt_logprobs"] = prompt_logprobs(self.choices[0].prompt_logprobs, self.view)
        if request.shown.token_ids:
            answer["prompt_token_ids"] = list(request.prompts[0].ids)
        return orjson.dumps(answer)

    def _choice(self, slot: int) -> JsonObject:
        end = self.end_of(slot)
        choice, shown = self.choices[slot], self.request.shown
        delta = choice.delta
        shown_choice: JsonObject = {"index": slot, "message": self._message(choice)}
        shown_choice["logprobs"] = None
        if shown.logprobs:
            shown_choice["logprobs"] = chat_logprobs(delta.logprobs, shown.n_top, self.view)
        shown_choice |= end.as_openai()
        if shown.token_ids:
            shown_choice["token_ids"] = delta.token_ids
        return shown_choice

    def _message(self, choice: Choice) -> JsonObject:
        parsing, delta = self.request.parsing, choice.delta
        content = "".join((*self.request.shown.echo, *delta.content))
        reasoning = "".join(delta.reasoning)
        message: JsonObject = {"role": "assistant", "content": content, "refusal": None}
        if not content and (delta.calls or reasoning):
            message["content"] = None
        if parsing.new_reasoning is not None:
            message["reasoning_content"] = reasoning or None
        if delta.calls:
            message["tool_calls"] = _whole_calls(delta.calls)
        return message


class CompletionWhole(WholeAnswer):
    """A text completion object."""

    def body(self) -> bytes:
        """Writes it.

        Raises:
            AnswerFailed: A choice has not ended.
        """
        answer = self.head("text_completion")
        answer["choices"] = [self._choice(slot) for slot in range(self.request.n_slots)]
        answer["usage"] = self.count.as_usage()
        return orjson.dumps(answer)

    def _choice(self, slot: int) -> JsonObject:
        end = self.end_of(slot)
        request, shown, choice = self.request, self.request.shown, self.choices[slot]
        echo = shown.echo[slot // request.n] if shown.echo else ""
        shown_choice: JsonObject = {
            "index": slot,
            "text": echo + "".join(choice.delta.content),
            "logprobs": self._logprobs(choice),
            **end.as_openai(),
        }
        if shown.prompt_logprobs:
            shown_choice["prompt_logprobs"] = prompt_logprobs(choice.prompt_logprobs, self.view)
        if shown.token_ids:
            shown_choice["prompt_token_ids"] = list(request.prompt(slot).ids)
            shown_choice["token_ids"] = choice.delta.token_ids
        return shown_choice

    def _logprobs(self, choice: Choice) -> JsonObject | None:
        shown, delta = self.request.shown, choice.delta
        if not shown.logprobs:
            return None
        items, offsets = delta.logprobs, delta.offsets
        if shown.echo:
            echoed, places = prompt_tokens(self.request, choice)
            items, offsets = [*echoed, *items], [*places, *offsets]
        return legacy_logprobs(items, offsets, shown.n_top, self.view)


def _whole_calls(pieces: list[CallDelta]) -> list[JsonObject]:
    """Joins the pieces of each call."""
    calls: dict[int, JsonObject] = {}
    arguments: dict[int, list[str]] = {}
    for piece in pieces:
        if piece.name is not None:
            function = {"name": piece.name, "arguments": ""}
            calls[piece.index] = {"id": piece.id, "type": "function", "function": function}
        arguments.setdefault(piece.index, []).append(piece.arguments)
    for index, call in calls.items():
        call["function"]["arguments"] = "".join(arguments[index])
    return list(calls.values())
