"""Records golden wire samples from a running pair of real SGLang workers.

Usage (from the repository): python -m tests.engines.record_wire
           PREFILL_URL BOOTSTRAP_PORT DECODE_URL OUT_DIR [NAME...]

Each case of ``wire_cases.py`` goes to both legs at once under one room of its own, as
the gateway does it. Written are NAME.request.json and NAME.prefill.txt / NAME.decode.txt
(status line, headers, body without its chunk framing), all after
``sglang-<version>-``. Standard library only, so that no client of ours is in between.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
import threading
import urllib.parse
from pathlib import Path
from typing import Any

from tests.engines.wire_cases import CASES, LONELY_CASES, METADATA, Case

TIMEOUT_S = 60.0
FIRST_ROOM = 7001
INSTALLED = re.compile(rb"(/[\w.-]+)+/site-packages/")


def ask(url: str, method: str, path: str, body: Any) -> tuple[str, bytes]:
    """Sends one request and returns the head as text and the body."""
    where = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT_S)
    try:
        payload = None if body is None else json.dumps(body).encode()
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in response.getheaders()]
        return "\n".join(lines), response.read()
    finally:
        connection.close()


class Recorder:
    """Sends the cases and writes what came back.

    Args:
        legs: Role to base URL.
        bootstrap_port: Where the prefill worker's bootstrap server listens.
        out: The folder to write to.
    """

    def __init__(self, legs: dict[str, str], bootstrap_port: int, out: Path) -> None:
        self.legs = legs
        self.bootstrap_port = bootstrap_port
        self.out = out
        self.next_room = FIRST_ROOM
        info = json.loads(ask(legs["decode"], "GET", "/server_info", None)[1])
        self.model_path = str(info["model_path"])
        self.start = f"sglang-{info['version']}-"

    def write(self, name: str, head: str, body: bytes) -> None:
        """Writes one answer; the machine's own paths are taken out."""
        text = f"{head}\n\n".encode() + body
        text = text.replace(self.model_path.encode(), b"MODEL_DIR")
        text = INSTALLED.sub(b"site-packages/", text)
        (self.out / f"{self.start}{name}.txt").write_bytes(text)
        print(f"{name}: {head.splitlines()[0]}, {len(body)} bytes")

    def with_rooms(self, case: Case) -> dict[str, Any]:
        """Adds the rendezvous members: lists for a batch, scalars otherwise."""
        n = case.batch
        room, self.next_room = self.next_room, self.next_room + (n or 1)
        host, port = "127.0.0.1", self.bootstrap_port
        if n is None:
            members: dict[str, Any] = {
                "bootstrap_host": host,
                "bootstrap_port": port,
                "bootstrap_room": room,
            }
        else:
            members = {
                "bootstrap_host": [host] * n,
                "bootstrap_port": [port] * n,
                "bootstrap_room": list(range(room, room + n)),
            }
        return {**case.body, **members}

    def pair(self, case: Case) -> None:
        """Sends one case to both legs at once; the prefill leg is never streamed."""
        body = self.with_rooms(case)
        (self.out / f"{self.start}{case.name}.request.json").write_text(
            json.dumps({"path": case.path, "body": body}, indent=1) + "\n"
        )
        answers: dict[str, tuple[str, bytes]] = {}

        def leg(role: str) -> None:
            sent = {**body, "stream": False} if role == "prefill" else body
            if role == "prefill":
                sent.pop("stream_options", None)
            answers[role] = ask(self.legs[role], "POST", case.path, sent)

        threads = [threading.Thread(target=leg, args=(role,)) for role in self.legs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for role, (head, answer) in sorted(answers.items()):
            self.write(f"{case.name}.{role}", head, answer)

    def lonely(self, name: str, role: str, case: Case, abort_after_s: float) -> None:
        """Sends a case to one leg only, then aborts it by its rid."""
        body = {**self.with_rooms(case), "rid": name}
        abort = {"rid": name}
        timer = threading.Timer(
            abort_after_s, ask, (self.legs[role], "POST", "/abort_request", abort)
        )
        timer.start()
        self.write(f"{name}.{role}", *ask(self.legs[role], "POST", case.path, body))
        timer.join()

    def aborted_while_decoding(self, case: Case, after_s: float) -> None:
        """Sends a long case to both legs and aborts the decode leg in the middle."""
        body = {**self.with_rooms(case), "rid": case.name}
        prefill = threading.Thread(
            target=ask, args=(self.legs["prefill"], "POST", case.path, {**body, "stream": False})
        )
        prefill.start()
        self_url = self.legs["decode"]
        abort = {"rid": case.name}
        timer = threading.Timer(after_s, ask, (self_url, "POST", "/abort_request", abort))
        timer.start()
        self.write(f"{case.name}.decode", *ask(self_url, "POST", case.path, body))
        timer.join()
        prefill.join()


def main(prefill: str, bootstrap_port: str, decode: str, out_dir: str, *names: str) -> None:
    """Records every case, or the named ones."""
    recorder = Recorder({"prefill": prefill, "decode": decode}, int(bootstrap_port), Path(out_dir))
    recorder.out.mkdir(parents=True, exist_ok=True)
    for name, method, path in METADATA:
        if names and name not in names:
            continue
        for role, url in recorder.legs.items():
            recorder.write(f"{name}.{role}", *ask(url, method, path, None))
    for case in CASES:
        if not names or case.name in names:
            recorder.pair(case)
    for case in LONELY_CASES:
        if names and case.name not in names:
            continue
        if case.name.startswith("aborted_running"):
            recorder.aborted_while_decoding(case, 1.5)
        else:
            for role in recorder.legs:
                recorder.lonely(case.name, role, case, 1.0)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
