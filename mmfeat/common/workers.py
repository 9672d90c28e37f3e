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
_LOST = 75  # exit code of a worker that has lost another one


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


class LostProcess(MmfeatError):
    """A worker has lost the connection to another one. The command reports what happened to that one."""


@contextmanager
def running(module: str, workers: Sequence[Worker], grace: float | None = None) -> Iterator[Iterator[dict[str, Any]]]:
    """Run a module once for each worker; gives the reports of all as they arrive, until all have ended.

    The workers that still run at the end of the context are interrupted and waited for; a second Ctrl-C kills them.

    Parameters
    ----------
    grace : float, optional
        Seconds after which workers that were interrupted are killed; needed if they wait for one another.

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
            _stop(processes, grace)


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
    left, lost = len(processes), ""
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
        code = processes[number].wait()
        if code == _LOST:  # the other one is still to be heard of
            lost = workers[number].name
        elif code:
            raise WorkerFailed(f"{workers[number].name}: {_reason(code, logs[number])}")
    if lost:
        raise WorkerFailed(f"{lost}: the connection to the other processes broke")


def _reason(code: int, log: IO[bytes]) -> str:
    """Why a process ended, in one line."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"the process was ended by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return errors.one_line(Exception(lines[-1] if lines else f"the process ended with exit code {code}"))


def _stop(processes: list[subprocess.Popen[bytes]], grace: float | None) -> None:
    try:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            for process in processes:
                process.wait(grace)
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
        self.send(advance=n, note=note)

    def say(self, text: str) -> None:
        """Report a line for the user."""
        self.send(say=text)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End the process by what happens inside the context: an error is reported, an interruption is not."""
        try:
            yield
        except KeyboardInterrupt:
            sys.exit(130)
        except LostProcess:
            sys.exit(_LOST)
        except MmfeatError as error:
            self.send(**{_ERROR: [type(error).__name__, " ".join(str(error).split())]})
            sys.exit(1)
