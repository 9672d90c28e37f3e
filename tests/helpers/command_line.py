"""The command line, in this process or in one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import click
import pytest

COMMAND = str(Path(sys.executable).with_name("mmfeat"))


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """Every command that can be typed, by its words."""
    if not isinstance(command, click.Group):
        return {path: command}
    found = {}
    for name, one in command.commands.items():
        found |= leaves(one, (*path, name))
    return found


def run_cli(*arguments: str, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
    """Run the entry point in this process: a tenth of the time of a process of its own, most of which is imports."""
    from mmfeat.cli import main

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2))
    outputs, before = (out.buffer, err.buffer), dict(os.environ)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [COMMAND, *arguments])
        patch.setattr(sys.modules["__main__"], "__package__", None, raising=False)  # click names the program by it
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        os.environ.update({"COLUMNS": "200", **environment})
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code or 0
        except BaseException:  # what a user would see as a traceback
            traceback.print_exc()
            code = 1
        finally:
            os.environ.clear()
            os.environ.update(before)

    texts = [output.getvalue().decode() for output in outputs]
    return _checked(subprocess.CompletedProcess([COMMAND, *arguments], code, *texts), check)


def run_process(*arguments: str, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
    """Run the installed entry point in a process of its own."""
    env = {**os.environ, "COLUMNS": "200", **environment}
    done = subprocess.run([COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, env=env, timeout=600)
    return _checked(done, check)


def _checked(done: subprocess.CompletedProcess, check: bool) -> subprocess.CompletedProcess:
    if check:
        assert done.returncode == 0, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
    return done
