"""Caption augmentation: replaces two words by synonyms from a list (paper, section 3.1.1; P6)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.randomness import mix
from mmfeat.data.tables.delimited import delimiter_of
from mmfeat.data.tables.text_files import read_text, refuse_damage

N_WORDS = 2  # replaced in each caption
_WORD = re.compile(r"(?<![\w-])[^\W\d_]+(?:'[^\W\d_]+)?(?![\w-])")  # not a part of a compound such as man-made


def load_synonyms(path: Path | None = None) -> dict[str, tuple[str, ...]]:
    """The synonyms of each word, from a file with one group per line, separated like the cells of tables; None: mmfeat's list.

    Raises
    ------
    DataError
        The file cannot be read, or a line does not have two or more different words.
    """
    path = path or Path(__file__).with_name("synonyms.txt")
    lines = read_text(path).text.splitlines()
    groups = [line for line in lines if line.strip() and not line.startswith("#")]
    delimiter = delimiter_of(groups[0]) if groups else ","
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        refuse_damage(path, number, line)
        words = [word.strip().lower() for word in line.split(delimiter)]
        if len(words) < 2 or not all(words) or len(set(words)) < len(words):
            wanted = "a line is two or more different words with commas between"
            raise DataError(f"{path}:{number}: {wanted}, found {line[:60]!r}")
        for word in words:
            others = (*found.get(word, ()), *(w for w in words if w != word))
            found[word] = tuple(dict.fromkeys(others))
    return found


def replace_two(caption: str, synonyms: dict[str, tuple[str, ...]], number: int) -> str:
    """Replace up to two words by synonyms; `number` determines which. A capital first letter and all other text stay.

    A caption without a word of the list is returned unchanged.
    """
    words = [m for m in _WORD.finditer(caption) if m[0].lower() in synonyms]
    if not words:
        return caption
    scores = mix(np.arange(len(words), dtype=np.uint64), number)
    chosen = sorted(np.argsort(scores)[:N_WORDS].tolist(), reverse=True)
    for i in chosen:
        word = words[i]
        options = synonyms[word[0].lower()]
        new = options[int(scores[i] % np.uint64(len(options)))]
        new = new[0].upper() + new[1:] if word[0][0].isupper() else new
        caption = caption[: word.start()] + new + caption[word.end() :]
    return caption
