"""How many modules and functions of mmfeat one command executes: what a reader who follows it has to know.

    python benchmarks/stops.py extract          # in a project folder; any command with its options

Counts functions that are called, not lines that are imported, and prints to stderr after the command's own output.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any


def main(words: list[str]) -> None:
    """Run a command, and count."""
    from mmfeat.cli import main as command

    import mmfeat

    packages = {str(Path(mmfeat.__file__).parent), str(Path(sys.modules["mmfeat.cli"].__file__).parent)}
    called: set[tuple[str, str]] = set()

    def look(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if (
            event == "call"
            and not code.co_name.startswith("<")
            and any(code.co_filename.startswith(p) for p in packages)
        ):
            called.add((code.co_filename, code.co_name))

    threading.setprofile(look)
    sys.setprofile(look)
    sys.argv = ["mmfeat", *words]
    with contextlib.suppress(SystemExit):
        command()
    sys.setprofile(None)
    modules = {file for file, _ in called}
    print(f"{' '.join(words)}: {len(modules)} modules, {len(called)} functions", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
