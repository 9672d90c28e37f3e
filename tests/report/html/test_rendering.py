"""Pages that load nothing from elsewhere, and in which text of the data stays text."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from mmfeat.report.html.rendering import figure, percent, plain, render, style


def test_a_page_needs_nothing_beside_it():
    page = render("base.html")
    assert page.startswith("<!doctype html>")
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert "@import" not in page
    assert "url(" not in page
    assert style() in page


def test_only_the_script_of_the_page_may_run():
    page = render("base.html")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "<script" not in render("base.html", script=False)
    assert "script-src 'none'" in render("base.html", script=False)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a dog\n\n on\ta bench ", "a dog on a bench"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("left\u202eright", r"left\u202eright"),
        ("כלב על ספסל", "כלב על ספסל"),
        ("👨‍👩‍👧", "👨‍👩‍👧"),
        ("\ud800", r"\ud800"),
        ("x" * 10_000, "x" * 599 + "…"),
    ],
)
def test_untrusted_text_is_one_line_without_codes(text, line):
    assert plain(text) == line
    plain(text).encode()


def test_a_number_that_does_not_exist_is_a_dash():
    assert [figure(None), figure(float("nan")), figure(0.12345), percent(0.125), percent(None)] == [
        "–",
        "–",
        "0.123",
        "12 %",
        "–",
    ]
