"""All tables beside the paper's as one HTML page without scripts or other files. Every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mmfeat.common.text import shown
from mmfeat.report.paper_sheet import DIFFERENCE, Sheet

_LONGEST = 1000  # characters of a text
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 110rem; padding: 0 1rem }
div.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid #8884; text-align: right }
th { font-weight: 600 }
th:first-child, td:first-child, td.note { text-align: left }
th.group { text-align: center; border-left: 1px solid #8886 }
th.first, td.first { border-left: 1px solid #8886 }
td.difference { color: #777 }
ul { font-size: 14px }
"""


def paper_page(title: str, about: Sequence[str], sheets: Sequence[Sheet]) -> str:
    """The page; `about` are the lines above the tables."""
    links = "".join(f'<li><a href="#{escape(sheet.name)}">{_text(sheet.title)}</a></li>' for sheet in sheets)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            f"<h1>{_text(title)}</h1>",
            *(f"<p>{_text(line)}</p>" for line in about),
            f"<ul>{links}</ul>",
            *(_section(sheet) for sheet in sheets),
            "</body>\n</html>\n",
        ]
    )


def _section(sheet: Sheet) -> str:
    groups, noted = sheet.groups(), not sheet.by_class and any(row.note for row in sheet.rows)
    first = "".join(f'<th class="group" colspan="{len(parts)}">{_text(title)}</th>' for title, parts in groups)
    places = [(part, i == 0) for _, parts in groups for i, part in enumerate(parts)]
    second = "".join(f"<th{_classes('', begins)}>{escape(part)}</th>" for part, begins in places)
    body = []
    for i, (name, *cells) in enumerate(sheet.lines()):
        row = "".join(f"<td{_classes(*place)}>{_text(cell)}</td>" for cell, place in zip(cells, places, strict=True))
        note = f'<td class="note">{_text(sheet.rows[i].note)}</td>' if noted else ""
        body.append(f"<tr><td>{_text(name)}</td>{row}{note}</tr>")
    last = "<th></th>" if noted else ""
    notes = "".join(f"<li>{_text(note)}</li>" for note in sheet.notes)
    return (
        f'<h2 id="{escape(sheet.name)}">{_text(sheet.title)}</h2>\n<div class="wide"><table><thead>'
        f"<tr><th></th>{first}{last}</tr>\n<tr><th></th>{second}{last}</tr></thead>\n<tbody>"
        + "\n".join(body)
        + f"</tbody></table></div>\n<ul>{notes}</ul>"
    )


def _classes(part: str, begins: bool) -> str:
    names = ["difference"] * (part == DIFFERENCE) + ["first"] * begins
    return f' class="{" ".join(names)}"' if names else ""


def _text(text: str) -> str:
    return escape(shown(text, _LONGEST))
