"""Progress where there is no terminal, and times as people say them."""

from __future__ import annotations

import pytest

from mmfeat.common.progress import clock, counting_into, progress, quiet, relayed_by, say


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (12, "12 s"), (59.4, "59 s"), (185, "3:05"), (7385, "2:03:05")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(("rows", "rate"), [(500, "25/s"), (4, "5.0 s each")])
def test_plain_lines_give_rate_and_time_left_now_and_then(capsys, monkeypatch, rows, rate):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress("reading [bold]", rows * 2) as bar:
        bar.advance(0)
        now[0] = 5.0
        bar.advance(rows // 2)
        now[0] = 20.0
        bar.advance(rows - rows // 2, "half")
        now[0] = 21.0
        bar.advance(rows)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"reading [bold]: {rows:,} of {rows * 2:,} rows, {rate}, 20 s left half"]
    assert captured.out == ""


def test_loops_over_rows_are_counted_elsewhere_and_nothing_is_shown(capsys):
    class Counter:
        n = 0

        def advance(self, n: int = 1, note: str = "") -> None:
            self.n += n

    counter = Counter()
    with counting_into(counter):
        for unit in ("rows", "images", "rows"):
            with progress("a loop", 5, unit) as bar:
                bar.advance(2)
        say("a note")
    assert counter.n == 4
    assert capsys.readouterr().err == ""
    with progress("a loop", 5) as bar:
        bar.advance(2)
    assert counter.n == 4


def test_a_relay_gets_progress_with_its_notes_and_the_lines(capsys):
    class Relay:
        def __init__(self) -> None:
            self.found = []

        def advance(self, n: int = 1, note: str = "") -> None:
            self.found.append((n, note))

        def say(self, text: str) -> None:
            self.found.append(text)

    relay = Relay()
    with relayed_by(relay):
        with progress("a loop", 5, "samples") as bar:
            bar.advance(2, "loss 0.1")
        say("a line")
        with quiet():
            say("none")
    assert relay.found == [(2, "loss 0.1"), "a line"]
    say("here")
    assert capsys.readouterr().err == "here\n"
