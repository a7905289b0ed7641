"""What a start is refused for: files that vLLM workers need and that cannot be used."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.__main__ import main
from app.gateway import build_gateway
from app.settings import PrefillUrl, Settings, SettingsError
from app.sim.small_tokenizer import write_small_tokenizer

PAIR = ["--prefill", "grpc://127.0.0.1:9", "--decode", "grpc://127.0.0.1:10"]


def free_port() -> str:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, and beside its files some that are wrong."""
    folder = tmp_path_factory.mktemp("model")
    write_small_tokenizer(folder)
    (folder / "empty").mkdir()
    shutil.copytree(folder, folder / "broken", ignore=shutil.ignore_patterns("empty", "broken"))
    (folder / "broken" / "tokenizer.json").write_text("{")
    (folder / "no.pem").write_text("not a certificate")
    (folder / "bad.jinja").write_text("{% if %}")
    return folder


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "--model-path {folder}/nowhere",
            "--model-path: The tokenizer {folder}/nowhere is neither a folder nor a hub id.",
        ),
        ("--model-path {folder}/empty", "--model-path: {folder}/empty has no tokenizer.json"),
        ("--model-path {folder}/broken", "{folder}/broken/tokenizer.json is no tokenizer:"),
        ("--tokenizer-path {folder}/empty", "--tokenizer-path: {folder}/empty has no tokenizer"),
        (
            "--model-path {folder} --chat-template {folder}/nowhere.jinja",
            "The chat template {folder}/nowhere.jinja is no file, no name of a template",
        ),
        (
            "--model-path {folder} --chat-template {folder}/bad.jinja",
            "The chat template 'default' does not compile:",
        ),
        ("--ca-cert-path {folder}/x.pem", "--ca-cert-path {folder}/x.pem: No such file"),
        (
            "--ca-cert-path {folder}/no.pem",
            "--ca-cert-path {folder}/no.pem: no certificates in PEM form.",
        ),
        (
            "--client-cert-path {folder}/x.pem --client-key-path {folder}/no.pem",
            "--client-cert-path {folder}/x.pem: No such file",
        ),
        (
            "--client-cert-path {folder}/no.pem --client-key-path {folder}",
            "--client-key-path {folder}: Is a directory.",
        ),
        (
            "--client-cert-path {folder}/no.pem --client-key-path {folder}/no.pem",
            "--client-cert-path {folder}/no.pem: the certificate and the key {folder}/no.pem are",
        ),
    ],
)
def test_refusals(
    line: str, sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence on stderr that names flag and file, and exit code 2."""
    words = line.format(folder=folder).split()
    assert main([*PAIR, "--host", "127.0.0.1", "--port", free_port(), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence.format(folder=folder) in err
    assert err.startswith("tandem: --")
    assert err.count("\n") == 1


def test_refusal_of_a_real_process(folder: Path) -> None:
    """The real program ends with 2 and without a traceback."""
    words = [*PAIR, "--port", free_port(), "--model-path", f"{folder}/empty"]
    done = subprocess.run(
        [sys.executable, "-m", "app", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tandem: --model-path: {folder}/empty has no tokenizer.json")
    assert done.stderr.count("\n") == 1


def test_sglang_workers_need_no_tokenizer(folder: Path) -> None:
    """Before SGLang workers alone the path is not even looked at; without workers it is."""
    path = f"{folder}/empty"
    build_gateway(Settings(prefill=(PrefillUrl("http://p:1"),), model_path=path)).texts.close()
    with pytest.raises(SettingsError, match=r"^--model-path: "):
        build_gateway(Settings(model_path=path))


def test_certificates_are_read(tmp_path: Path) -> None:
    """Good ones are taken; a key of another certificate is refused."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    for name in ("a", "b"):
        command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        command += ["-nodes", "-subj", f"/CN={name}", "-days", "2"]
        command += ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    paths = {name: str(tmp_path / name) for name in ("a.pem", "a.key", "b.key")}
    own: dict[str, Any] = {"ca_cert_path": paths["a.pem"], "client_cert_path": paths["a.pem"]}
    build_gateway(Settings(**own, client_key_path=paths["a.key"])).texts.close()
    with pytest.raises(SettingsError, match=r"^--client-cert-path .* do not fit each other"):
        build_gateway(Settings(**own, client_key_path=paths["b.key"]))
