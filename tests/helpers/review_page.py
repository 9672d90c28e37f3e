"""A review page of given rows, served in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from helpers.server import running
from mmfeat.data.review_items import Reason, ReviewItem
from mmfeat.inference.review_desk import ReviewDesk, open_journal
from mmfeat.project.project import Project
from mmfeat.report.html.rendering import style
from mmfeat.serving.listening import bound, server_of
from mmfeat.serving.review_app import Entrance, build_review_app, page_files


@dataclass(frozen=True, kw_only=True)
class Page:
    """A served page."""

    port: int
    entrance: Entrance
    desk: ReviewDesk
    file: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.entrance.token}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON or bytes, and headers; with the right token unless another one is given."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"x-mmfeat-token": self.entrance.token, **{k.replace("_", "-"): v for k, v in headers.items()}}
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, body=data, headers={k: v for k, v in given.items() if v is not None})
            answer = connection.getresponse()
            content, found = answer.read(), {k.lower(): v for k, v in answer.getheaders()}
            is_json = found.get("content-type", "").startswith("application/json")
            return answer.status, json.loads(content) if is_json else content, found
        finally:
            connection.close()

    def answer(self, sample: str, labels: list[str] | None, seen: int, **more: Any) -> tuple[int, Any]:
        body = {"id": sample, "labels": labels, "seen": seen, **more}
        return self.ask("POST", "/api/answer", body)[:2]


def items_of(project: Project, n: int, **changes: Any) -> list[ReviewItem]:
    """The first n rows of a manifest, with a proposal and a reason each."""
    manifest = project.manifest
    classes = manifest.classes
    found = []
    for row in range(n):
        at = row % manifest.n_samples
        positive = tuple(name for k, name in enumerate(classes) if manifest.labels[at, k] == 1)
        values = {
            "id": manifest.ids[at] if row < manifest.n_samples else f"copy {row}",
            "row": at,
            "image": manifest.images[at],
            "caption": manifest.captions[at],
            "split": manifest.split[at],
            "given": positive or None,
            "proposed": (classes[row % len(classes)],),
            "reasons": (
                Reason(
                    kind=("uncertain", "label errors")[row % 2],
                    text="look here",
                    class_name=classes[row % len(classes)],
                ),
            ),
            "probabilities": {classes[row % len(classes)]: 0.75},
        }
        found.append(ReviewItem(**(values | changes)))
    return found


@contextmanager
def reviewing(project: Project, items: list[ReviewItem], **desk: Any) -> Iterator[Page]:
    """A page of these rows on a free port. Its answers are in review.jsonl of the project."""
    file = project.root / "review.jsonl"
    journal, entrance, listener = open_journal(project, file), Entrance(), bound("127.0.0.1", 0)
    made = ReviewDesk(project, items, journal, **desk)
    files = {**page_files(), "style.css": style().encode()}
    server = server_of(build_review_app(made, entrance, files), head_seconds=10)
    listener.listen(100)
    try:
        with running(server, listener) as port:
            yield Page(port=port, entrance=entrance, desk=made, file=file)
    finally:
        journal.close()
