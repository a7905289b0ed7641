"""Configurations of nginx: as the floor under every gateway, and as the relay that speaks TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from children import ENVIRONMENT

_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


class Hop(NamedTuple):
    """One way through the relay.

    Attributes:
        listens: Port where it is asked.
        to: Port it goes on to.
        listens_tls: The relay has a certificate there.
        dials_tls: What it goes on to has one.
    """

    listens: int
    to: int
    listens_tls: bool = False
    dials_tls: bool = False


def nginx() -> str | None:
    """Path of the program."""
    return shutil.which("nginx", path=ENVIRONMENT.get("PATH", "") + ":/usr/sbin")


def version() -> str:
    """Its version, such as 1.22.1."""
    said = subprocess.run([str(nginx()), "-v"], capture_output=True, text=True, check=True).stderr
    return said.partition("/")[2].split()[0]


def can_relay() -> bool:
    """Whether there is nginx with its stream module (``libnginx-mod-stream`` on Debian)."""
    return nginx() is not None and _STREAM_MODULE.exists()


def proxy_command(folder: Path, port: int, upstream_port: int) -> list[str]:
    """Starts one worker process that hands all requests to one upstream, with keep-alive."""
    paths = " ".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return _command(
        folder,
        "nginx-floor",
        f"""http {{
    access_log off; {paths}
    client_max_body_size 0; client_body_buffer_size 2m;
    keepalive_requests 1000000000; keepalive_timeout 60s; tcp_nodelay on;
    upstream decode {{
        server 127.0.0.1:{upstream_port};
        keepalive 1024; keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://decode;
            proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}""",
    )


def relay_command(
    folder: Path, hops: Sequence[Hop], certificate: tuple[str, str], ca: str
) -> list[str]:
    """Starts a relay of bytes, with TLS where a hop asks for it."""
    servers = "\n".join(
        f"""    server {{
        listen 127.0.0.1:{hop.listens} {"ssl" if hop.listens_tls else ""} backlog=4096;
        proxy_pass 127.0.0.1:{hop.to}; proxy_ssl {"on" if hop.dials_tls else "off"};
    }}"""
        for hop in hops
    )
    return _command(
        folder,
        "nginx-relay",
        f"""stream {{
    tcp_nodelay on; proxy_timeout 1h;
    ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};
    proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca}; proxy_ssl_name localhost;
{servers}
}}""",
        f"load_module {_STREAM_MODULE};",
    )


def _command(folder: Path, name: str, body: str, first: str = "") -> list[str]:
    # Started as root it would give its worker to a user who cannot read the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    path = folder / f"{name}.conf"
    path.write_text(
        f"""{first} {user}
worker_processes 1; daemon off; pid {folder}/{name}.pid;
error_log {folder}/{name}-error.log; worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
{body}
"""
    )
    error_log = str(folder / f"{name}-error.log")
    return [str(nginx()), "-p", str(folder), "-c", str(path), "-e", error_log]
