"""What the fault campaigns share: commands in forked children, faults to install there, and projects compared.

Everything that a command imports is imported once, here, and each trial is a fork of this process: a trial costs tenths
of a second. All trials of a campaign use one path, so that files that name it can be compared.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads of tokenizers do not outlive a fork
NAMES = ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "link", "symlink")
KILLED = 9  # the exit status of a child that a fault has ended
TRACEBACK = 99


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The last line of stderr."""
        return (self.err.strip().splitlines() or [""])[-1]

    def check(self, *codes: int) -> Done:
        """Fail where it ended in another way, or with a traceback."""
        assert self.code in codes, f"exit {self.code}, wanted {codes}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err, self.err
        return self


def warm_up(project: Path) -> None:
    """Do once in this process what commands do, on a project that nobody needs, so that children import nothing."""
    import gc

    import torch

    from mmfeat import workflows
    from mmfeat.project.encoding import extract
    from mmfeat.project.initialisation import init
    from mmfeat.project.project import Project
    from mmfeat.workflows.ensemble import ensemble
    from mmfeat.workflows.export import export
    from mmfeat.workflows.finetune import finetune
    from mmfeat.workflows.fuse import fuse
    from mmfeat.workflows.predict import predict

    torch.set_num_threads(1)
    for module in pkgutil.iter_modules(workflows.__path__):
        importlib.import_module(f"mmfeat.workflows.{module.name}")
    init(project)
    finetune(Project(project), ["text"])
    finetune(Project(project), freeze=True)
    extract(Project(project))
    fuse(Project(project), "concat")
    ensemble(Project(project), ["fm1"])
    predict(Project(project), "concat-1")
    export(Project(project), "fm1-1", project / "model")
    gc.collect()
    gc.freeze()  # what is there already is not touched by collections in children, so that its pages stay shared


def start(words: list[str], folder: Path, cache: Path, fault: Callable[[], None] | None = None) -> Running:
    """Begin `mmfeat WORDS` in a forked child, in `folder`."""
    files = (tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+"))  # noqa: SIM115 - closed when it has ended
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_command(words, folder, cache, files, fault)
    return Running(child, files, words)


def run(words: list[str], folder: Path, cache: Path, fault: Callable[[], None] | None = None) -> Done:
    """Run `mmfeat WORDS` to its end."""
    return start(words, folder, cache, fault).wait()


def _be_command(words: list[str], folder: Path, cache: Path, files: tuple, fault: Callable[[], None] | None) -> None:
    import torch
    from mmfeat.cli import main

    code = TRACEBACK
    try:
        torch.set_num_threads(
            1
        )  # a fork has torch make its pool of threads again: once, before several threads ask for it
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ["XDG_CACHE_HOME"] = str(cache)
        os.chdir(folder)
        sys.argv = ["mmfeat", *words]
        if fault is not None:
            fault()
        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:  # what a user would see as a traceback
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


@dataclass
class Running:
    """A command that has begun."""

    child: int
    files: tuple
    words: list[str]

    def wait(self, seconds: float = 300.0) -> Done:
        """Wait for its end; one that hangs is killed, and fails."""
        end = time.monotonic() + seconds
        while True:
            found, status = os.waitpid(self.child, os.WNOHANG)
            if found:
                break
            if time.monotonic() > end:
                os.kill(self.child, signal.SIGKILL)
                os.waitpid(self.child, 0)
                raise AssertionError(f"mmfeat {' '.join(self.words)}: no end after {seconds:.0f} s")
            time.sleep(0.002)
        texts = []
        for file in self.files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        return Done(os.waitstatus_to_exitcode(status), *texts)


# Faults, installed in the child


def count_to(file: Path) -> Callable[[], None]:
    """Count the calls that change a folder; the number is in `file` when the command has ended."""

    def install() -> None:
        calls = 0

        def counted(name: str, arguments: tuple) -> None:
            nonlocal calls
            calls += 1
            _WRITE(file, str(calls))

        _patch(counted)

    return install


def kill_at(nth: int) -> Callable[[], None]:
    """End the child, as kill -9 would, in place of its nth call that changes a folder (counted from 0)."""

    def install() -> None:
        calls = 0

        def kill(name: str, arguments: tuple) -> None:
            nonlocal calls
            if calls == nth:
                os._exit(KILLED)
            calls += 1

        _patch(kill)

    return install


def refuse_from(nth: int, number: int) -> Callable[[], None]:
    """The nth call that changes a folder, and each after it, is refused with this errno."""

    def install() -> None:
        calls = 0

        def refuse(name: str, arguments: tuple) -> None:
            nonlocal calls
            calls += 1
            if calls > nth and name not in ("unlink", "remove", "rmdir"):
                raise OSError(number, os.strerror(number), str(arguments[0]))

        _patch(refuse)

    return install


def refuse_writes(number: int, below: Path) -> Callable[[], None]:
    """Every file below a folder that is opened to be written, and every call that changes it, is refused."""
    inside = str(below)

    def install() -> None:
        def refuse(name: str, arguments: tuple) -> None:
            if str(arguments[0]).startswith(inside):
                raise OSError(number, os.strerror(number), str(arguments[0]))

        _patch(refuse)

    return install


def limit_files(n_bytes: int) -> Callable[[], None]:
    """No file may grow beyond so many bytes, whoever writes it: Python, HDF5, Arrow or Rust."""

    def install() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    return install


def _WRITE(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def _patch(before: Callable[[str, tuple], None]) -> None:
    """Call `before` ahead of every function of `os` that changes a folder."""

    def patched(name: str, function: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            if "__pycache__" not in str(arguments[0]):
                before(name, arguments)
            return function(*arguments, **options)

        return call

    for name in NAMES:
        setattr(os, name, patched(name, getattr(os, name)))


# A small disk


@contextlib.contextmanager
def small_disk(folder: Path, n_bytes: int) -> Iterator[bool]:
    """A disk of so many bytes at `folder`; gives False where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = os.system(f"mount -t tmpfs -o size={n_bytes} tmpfs '{folder}' 2> /dev/null") == 0
    try:
        yield mounted
    finally:
        if mounted:
            os.system(f"umount -l '{folder}'")


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[bool]:
    """The folder on a disk that can only be read; gives False where nothing may be mounted."""
    quoted = f"'{folder}'"
    mounted = os.system(f"mount --bind {quoted} {quoted} 2> /dev/null") == 0
    try:
        if mounted:
            os.system(f"mount -o remount,ro,bind {quoted}")
        yield mounted
    finally:
        if mounted:
            os.system(f"umount -l {quoted}")


def fill(folder: Path, leave: int) -> Path:
    """Fill a small disk until so many bytes are left; returns the file that does."""
    file = folder / "filler"
    free = shutil.disk_usage(folder).free - leave
    with file.open("wb") as opened:
        opened.write(np.random.default_rng(0).bytes(max(0, free)))
    return file


NO_SPACE = os.strerror(errno.ENOSPC)
