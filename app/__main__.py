"""``python -m app`` or ``tandem``; ``demo``, ``doctor``, ``replay`` or ``size`` may come first."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from app import cli
from app.settings import SettingsError

_REFUSED = 2
"""Exit code of a command line or setting that cannot be used, as argparse has it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: Words after the program's name; the process's own if left out.

    Returns:
        Exit code: 0 after a stop signal, 128 and its number after a second one, 2 for settings
        that cannot be used, 3 when the application did not start; of the doctor see there.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["demo"]:
            # Imported here, so that a gateway in production never loads the simulator.
            from app.demo import main as demo  # noqa: PLC0415

            return demo(words[1:])
        if words[:1] == ["doctor"]:
            from app.doctor.command import main as doctor  # noqa: PLC0415

            return doctor(words[1:])
        if words[:1] == ["replay"]:
            from app.twin.replay import main as replay  # noqa: PLC0415

            return replay(words[1:])
        if words[:1] == ["size"]:
            from app.twin.size import main as size  # noqa: PLC0415

            return size(words[1:])
        settings = cli.load(words)
        # Imported here, so that --help and refusals are quick.
        if settings.workers > 1 or settings.brain_port is not None:
            if settings.brain_secret is not None and settings.brain_port is not None:
                from app.server.hash_seed import hash_alike  # noqa: PLC0415

                hash_alike(settings.brain_secret.get_secret_value())
            from app.server.many import serve as serve_many  # noqa: PLC0415

            return serve_many(settings)
        from app.server.run import serve  # noqa: PLC0415

        return serve(settings)
    except SettingsError as exc:
        sys.stderr.write(f"tandem: {exc}\n")
        return _REFUSED


if __name__ == "__main__":
    sys.exit(main())
