"""The folder `paper/`: every table beside the paper's as CSV, Markdown and one HTML page.

`figures.json` keeps the tables of earlier runs, so that a run of some tables leaves the others in the pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmfeat.common.progress import say
from mmfeat.common.seals import read_record, sealed_text
from mmfeat.report.markdown import escaped
from mmfeat.report.outputs import Outputs
from mmfeat.report.paper_figures import paper_tables
from mmfeat.report.paper_page import paper_page
from mmfeat.report.paper_sheet import SHEET, Sheet, sheet_of

FOLDER, FORMAT = "paper", 1
MARKDOWN, PAGE, KEPT = "tables.md", "tables.html", "figures.json"
TITLE = "The paper's tables beside ours"
ABOUT = (
    "theirs: as printed in the paper. ours: of this project, with the 95 % interval over rows where it is known. "
    "difference: ours minus theirs, where both are the same measure on rows of the same kind.",
    "Epochs, settings and the best models were selected on the val rows, here and in the paper: the best of many looks "
    "better than it is.",
)


def write_paper(outputs: Outputs, root: Path, sheets: Sequence[Sheet]) -> list[Path]:
    """Write tables into `paper/` of a project, with those of earlier runs; returns the files.

    Raises
    ------
    OutputError
        A file was changed since it was written, or was not written by mmfeat.
    """
    folder = root / FOLDER
    known = {sheet.name: sheet for sheet in (*kept_sheets(root), *sheets)}
    order = [table.name for table in paper_tables()]
    every = sorted(known.values(), key=lambda sheet: order.index(sheet.name) if sheet.name in order else len(order))
    lines = [f"# {TITLE}", "", *(f"{escaped(line, 1000)}\n" for line in ABOUT)]
    texts = {f"{sheet.name}.csv": sheet.csv() for sheet in every}
    texts[MARKDOWN] = "\n".join([*lines, *(sheet.markdown() for sheet in every)])
    texts[PAGE] = paper_page(TITLE, ABOUT, every)
    texts[KEPT] = sealed_text({"format": FORMAT, "sheets": [sheet.as_json() for sheet in every]})
    outputs.write_all({folder / name: text.encode() for name, text in texts.items()})
    return [folder / name for name in texts if name != KEPT]


def check_paper(outputs: Outputs, root: Path) -> None:
    """Refuse files of `paper/` that must not be replaced, before any work; raises as :func:`write_paper`."""
    names = [f"{table.name}.csv" for table in paper_tables()]
    for name in (*names, MARKDOWN, PAGE, KEPT):
        outputs.check(root / FOLDER / name)


def kept_sheets(root: Path) -> list[Sheet]:
    """The tables of earlier runs; empty if there are none, or their file is damaged."""
    try:
        record = read_record(root / FOLDER / KEPT, FORMAT, {"sheets": [SHEET]}, "Its tables are made again")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        say(str(error))
        return []
    return [sheet_of(values) for values in record["sheets"]]
