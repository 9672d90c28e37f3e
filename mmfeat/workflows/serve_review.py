"""`mmfeat review --serve`: a page on this machine for looking at rows and giving them labels, until a signal ends it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import MmfeatError
from mmfeat.common.exclusive import alone_in
from mmfeat.common.extras import require
from mmfeat.common.progress import say
from mmfeat.common.text import counted
from mmfeat.data.review_journal import FILE
from mmfeat.inference.review_desk import ReviewDesk, open_journal, unapplied
from mmfeat.inference.review_work import review_work
from mmfeat.project.applied_reviews import AppliedReview
from mmfeat.project.project import Project
from mmfeat.report.html.rendering import style
from mmfeat.report.outputs import Outputs
from mmfeat.report.result import Result
from mmfeat.serving.listening import bound, ended_by_signals, server_of, url_of

HOST = "127.0.0.1"
DEFAULT_N = 500  # rows of the queue


@dataclass(frozen=True, kw_only=True, repr=False)
class ServedReview(Result):
    """What was answered on a review page.

    Attributes
    ----------
    file : Path
        The file of the answers.
    n_rows : int
        Rows on the page.
    n_pending : int
        Answers that are not applied yet.
    applied : AppliedReview or None
        The last review that was applied on the page.
    made : str
        The result in one sentence.
    after : str
        The command to type next.
    """

    file: Path
    n_rows: int
    n_pending: int
    applied: AppliedReview | None
    made: str
    after: str

    def _about(self) -> str:
        return self.made


def serve_review(
    project: Project,
    run: str | None = None,
    *,
    n: int = DEFAULT_N,
    split: str = "unlabelled",
    out: Path | str | None = None,
    port: int = 0,
    browser: bool = True,
) -> ServedReview:
    """Show the findings of the audit and the queue of a run on a page of this machine until SIGINT or SIGTERM.

    Each answer is saved in review.jsonl before the page shows it as saved. `apply_review` or the page's button applies them.

    Parameters
    ----------
    run, split
        As for `review`.
    n : int
        Rows of the queue. Findings of the audit are shown in addition.
    out : Path, optional
        The file of the answers; review.jsonl in the project's folder, if None.
    port : int
        The port to listen on; 0: a free one.
    browser : bool
        Whether to open the page in a browser.

    Raises
    ------
    ConfigError
        The extra is not installed, or the port cannot be used.
    MmfeatError
        There is nothing to look at, or another page is open in the project.
    """
    for module in ("fastapi", "uvicorn"):
        require(module, "serve")
    file = project.root / FILE if out is None else Path(out).expanduser()
    Outputs(project.config).check(file, known=True)
    with alone_in(project.memory / "review-page", "mmfeat review --serve"), contextlib.ExitStack() as closing:
        listener = bound(HOST, port)
        closing.callback(listener.close)
        journal = open_journal(project, file)
        closing.callback(journal.close)
        answered = sorted(unapplied(project, journal.given()))
        work = review_work(project, run, n=n, split=split, answered=answered)
        desk = ReviewDesk(project, work.items, journal, run=work.run, notes=work.notes)
        for note in work.notes:
            say(note)
        _serve(desk, listener, n_rows=len(work.items), browser=browser)
    return _result(desk, file, n_rows=len(work.items))


def _serve(desk: ReviewDesk, listener: socket.socket, *, n_rows: int, browser: bool) -> None:
    """Answer requests until a signal."""
    from mmfeat.serving.review_app import LIMITS, Entrance, build_review_app, page_files

    entrance, url = Entrance(), url_of(listener)
    files = {**page_files(), "style.css": style().encode()}
    server = server_of(build_review_app(desk, entrance, files), head_seconds=LIMITS.head_seconds)
    listener.listen(server.config.backlog)
    threading.Thread(target=_make_thumbnails, args=(desk,), name="mmfeat-thumbnails", daemon=True).start()
    say("Ctrl-C ends the page. Only this machine can open its address.")
    sys.stderr.write(f"{counted(n_rows, 'row')} to look at: {url}?token={entrance.token}\n")  # also if quiet
    sys.stderr.flush()
    if browser and _has_browser():
        webbrowser.open(f"{url}open?code={entrance.code}")
    with ended_by_signals(server):
        server.run(sockets=[listener])


def _has_browser() -> bool:
    """Whether a browser would open in a window of its own, and not in the terminal."""
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(shown) or not sys.platform.startswith("linux")


def _make_thumbnails(desk: ReviewDesk) -> None:
    try:
        desk.pictures.make_all()
    except MmfeatError as error:
        say(f"Thumbnails are not kept: {error}")


def _result(desk: ReviewDesk, file: Path, *, n_rows: int) -> ServedReview:
    shown_file = file.name if file.parent.resolve() == Path.cwd() else str(file)
    if desk.n_pending:
        made = f"{file.name} has {counted(desk.n_pending, 'answer')} to apply."
        after = f"mmfeat review --apply {shown_file}"
    elif desk.applied is not None:
        made, after = desk.applied.made, desk.applied.after
    else:
        made, after = "No row was answered.", "mmfeat review --serve"
    return ServedReview(
        file=file, n_rows=n_rows, n_pending=desk.n_pending, applied=desk.applied, made=made, after=after
    )
