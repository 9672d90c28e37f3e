"""Caption augmentation: replaces up to two words by synonyms from a list (paper, section 3.1.1; P6)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.randomness import mix
from mmfeat.data.tables.delimited import delimiter_of
from mmfeat.data.tables.text_files import read_text, refuse_damage

N_WORDS = 2  # replaced in each caption, at most
MMFEAT, WORDNET = "mmfeat", "wordnet"
LISTS = {
    name: Path(__file__).with_name(file)
    for name, file in {MMFEAT: "synonyms.txt", WORDNET: "synonyms-wordnet.txt"}.items()
}
_WORD = re.compile(r"(?<![\w-])[^\W\d_]+(?:'[^\W\d_]+)?(?![\w-])")  # not a part of a compound such as man-made


def load_synonyms(path: Path | None = None) -> dict[str, tuple[str, ...]]:
    """The synonyms of each word, from a file; None: the list of version 0.1.

    A line of the file is a group of words that may replace each other, separated like the cells of tables; a word, a colon
    and the words that may replace it; or `!` and compounds, whose words are left alone. A compound has no synonyms.

    Raises
    ------
    DataError
        The file cannot be read, or a line does not have two or more different words.
    """
    path = path or LISTS[MMFEAT]
    lines = read_text(path).text.splitlines()
    groups = [line for line in lines if line.strip() and line[0] not in "#!"]
    delimiter = delimiter_of(groups[0]) if groups else ","
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        refuse_damage(path, number, line)
        if line.startswith("!"):
            found |= dict.fromkeys((" ".join(one.lower().split()) for one in line[1:].split(delimiter)), ())
            continue
        first, colon, rest = line.partition(":")
        words = [
            word.strip().lower() for word in ([first] if colon else []) + (rest if colon else line).split(delimiter)
        ]
        if len(words) < 2 or not all(words) or len(set(words)) < len(words):
            wanted = "a line is two or more different words with commas between"
            raise DataError(f"{path}:{number}: {wanted}, found {line[:60]!r}")
        for word in words[:1] if colon else words:
            others = (*found.get(word, ()), *(w for w in words if w != word))
            found[word] = tuple(dict.fromkeys(others))
    return found


def named_synonyms(given: str, folder: Path) -> dict[str, tuple[str, ...]]:
    """The list of a setting: `mmfeat` or nothing (the list of version 0.1), `wordnet`, or a file."""
    return load_synonyms(LISTS.get(given or MMFEAT) or folder / Path(given).expanduser())


def replaceable(caption: str, synonyms: Mapping[str, tuple[str, ...]]) -> list[re.Match[str]]:
    """The words of a caption that have synonyms; words of compounds are left out."""
    words = list(_WORD.finditer(caption))
    lower = [word[0].lower() for word in words]
    pairs = {i for i, pair in enumerate(itertools.pairwise(lower)) if " ".join(pair) in synonyms}
    return [word for i, word in enumerate(words) if lower[i] in synonyms and i not in pairs and i - 1 not in pairs]


def replace_two(caption: str, synonyms: Mapping[str, tuple[str, ...]], number: int) -> str:
    """Replace up to two words by synonyms; `number` determines which. A capital first letter and all other text stay.

    A caption without a word of the list is returned unchanged.
    """
    words = replaceable(caption, synonyms)
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
