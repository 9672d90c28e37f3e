"""Worker processes of one command. They report in lines of JSON, and are stopped together.

Each worker has a session of its own, so that Ctrl-C reaches only the command, which interrupts its workers. A worker whose
command has died ends at its next report.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from mmfeat.common import errors
from mmfeat.common.errors import MmfeatError

_ERROR = "error"  # key of a report that ends a worker


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process to start.

    Attributes
    ----------
    name : str
        Its name in messages.
    request : dict
        What it is to do, as JSON values.
    environment : dict of str to str
        Environment variables besides those of this process.
    """

    name: str
    request: dict[str, Any]
    environment: dict[str, str]


class WorkerFailed(MmfeatError):
    """A worker ended without a message of its own."""


@contextmanager
def running(module: str, workers: Sequence[Worker]) -> Iterator[Iterator[dict[str, Any]]]:
    """Run a module once for each worker; gives the reports of all as they arrive, until all have ended.

    The workers that still run at the end of the context are interrupted and waited for; a second Ctrl-C kills them.

    Raises
    ------
    MmfeatError
        A worker reported an error, or ended without a report (:class:`WorkerFailed`).
    """
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in workers]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for worker, log in zip(workers, logs, strict=True):
                processes.append(_started(module, worker, log))
            yield _reports(workers, processes, logs)
        finally:
            _stop(processes)


def _started(module: str, worker: Worker, log: IO[bytes]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module],  # -P: no module of the current folder
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, **worker.environment},
        start_new_session=True,
    )
    with contextlib.suppress(BrokenPipeError):  # it ended at once, which is reported later
        process.stdin.write(json.dumps(worker.request).encode())
        process.stdin.close()
    return process


def _reports(
    workers: Sequence[Worker], processes: list[subprocess.Popen[bytes]], logs: list[IO[bytes]]
) -> Iterator[dict[str, Any]]:
    lines: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()

    def listen(number: int) -> None:
        for line in processes[number].stdout:
            lines.put((number, line))
        lines.put((number, b""))

    for number in range(len(processes)):
        threading.Thread(target=listen, args=(number,), daemon=True).start()
    left = len(processes)
    while left:
        number, line = lines.get()
        if line:
            report = json.loads(line)
            if _ERROR in report:
                kind, text = report[_ERROR]
                raise getattr(errors, kind, MmfeatError)(text)
            yield report
            continue
        left -= 1
        if code := processes[number].wait():
            raise WorkerFailed(f"{workers[number].name}: {_reason(code, logs[number])}")


def _reason(code: int, log: IO[bytes]) -> str:
    """Why a process ended, in one line."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"the process was ended by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return errors.one_line(Exception(lines[-1] if lines else f"the process ended with exit code {code}"))


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    try:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Reports:
    """The worker's side: its request, and the reports to its command. Whatever else is printed goes to stderr."""

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a command in the background ignores it
        self.request: dict[str, Any] = json.load(sys.stdin)
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)

    def send(self, **report: Any) -> None:
        """Send a report of JSON values."""
        self._out.write(json.dumps(report).encode() + b"\n")

    def advance(self, n: int = 1, note: str = "") -> None:
        """Report progress."""
        self.send(advance=n)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End the process by what happens inside the context: an error is reported, an interruption is not."""
        try:
            yield
        except KeyboardInterrupt:
            sys.exit(130)
        except MmfeatError as error:
            self.send(**{_ERROR: [type(error).__name__, " ".join(str(error).split())]})
            sys.exit(1)
