"""Counts in output agree with their nouns: `1 row`, `2 rows`, by `texts.counted`."""

from __future__ import annotations

import re
from pathlib import Path

import mmfeat

ROOT = Path(mmfeat.__file__).parent
NOUNS = (
    "rows|encoders|classes|models|seeds|heads|files|embeddings|ids|images|pictures|records|labels|folds|members|epochs|rounds|"
    "terms|numbers|fits|samples|captions|projects|runs|characters|requests|answers"
)
COUNT = re.compile(rf"\{{(?!counted)[^{{}}\"]*\}}(?: [a-z-]+)? (?:{NOUNS})\b")
IS_NUMBER = re.compile(r":,\}|len\(|\{n_|\.sum\(")
NEVER_ONE = (  # a constant, a text about several only, or one that no user sees
    "{IN_SAMPLE:,} rows",
    "{n_seeds} seeds",
    "{len(seeds)} seeds",
    "{len(answers)} answers",
    "{len(self.classes)} classes",
    "{len(values)} rows",
    "{len(labels)} rows",
    "{len(numbers)} ids",
    "{len(rows)} rows",
    "{len(asked.caption):,} characters",
    "{MOST_NUMBERS:,} numbers",
    "{IN_SAMPLE:,} training rows",
    "{len(classes):,} classes",
    "{len(items)} classes",
    "{len(scores)} best runs",
)


def test_counts_agree_with_their_nouns():
    found = []
    for path in [*ROOT.rglob("*.py"), *(ROOT.parent / "cli").glob("*.py")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if 'f"' in line or "f'" in line:
                found += [
                    (path.name, m[0]) for m in COUNT.finditer(line) if IS_NUMBER.search(m[0]) and m[0] not in NEVER_ONE
                ]
    assert not found, "write counted(n, 'row')"
