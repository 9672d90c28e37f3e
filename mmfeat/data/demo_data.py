"""A small synthetic data set in which images and captions each show only a part of the labels.

An image holds one to four shapes on a noisy background; class frequencies have a long tail. Some shapes are hard to see:
tiny, faint, or half behind a bar. A caption names each shape with a fixed probability, whether it is visible or not, by one
of its words (a circle is also a disc); some captions name no shape. A shape that is hidden in the image is therefore often
in the caption, and one that the caption omits can often be seen. Most rows are unlabelled; their true labels are in
truth.csv, which only the demo's last table reads.
"""

from __future__ import annotations

import csv
import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

WORDS = {
    "circle": ("circle", "disc", "dot"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "wedge", "pyramid"),
    "star": ("star", "starlet"),
    "ring": ("ring", "hoop", "loop"),
    "cross": ("cross", "plus"),
    "heart": ("heart", "valentine"),
    "diamond": ("diamond", "rhombus"),
    "moon": ("moon", "crescent"),
    "arrow": ("arrow", "pointer"),
}
CLASSES = tuple(WORDS)
N_LABELLED, N_UNLABELLED = 1200, 3000
PIXELS = 64
NAMED = 0.6  # probability that the caption names a shape
NAMES_NOTHING, BLANK = 0.06, 0.02  # shares of captions that name no shape, and of empty ones
HIDDEN = 0.45  # probability that a shape is hard to see
TAIL = 0.9  # class k has weight (k + 1) ** -TAIL
_COLOURS = ((214, 62, 62), (60, 120, 210), (60, 160, 90), (220, 170, 40), (150, 80, 180), (40, 170, 180))
_OPENINGS = ("a picture of", "there is", "we can see", "somebody drew", "look at", "here is")
_EXTRAS = ("on a noisy ground", "drawn by hand", "in the afternoon", "with some colours", "", "", "")
_OTHERS = ("a sunny day at the beach", "my favourite one", "no comment", "drawn in the afternoon", "what a mess")


def make_demo(folder: Path, seed: int = 0, n_labelled: int = N_LABELLED, *, n_unlabelled: int = N_UNLABELLED) -> None:
    """Write train.csv, test.csv, truth.csv, images.zip and text-encoder/ into a folder. A seed always gives the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    n = n_labelled + n_unlabelled
    weights = (np.arange(len(CLASSES)) + 1.0) ** -TAIL
    shapes = [
        rng.choice(len(CLASSES), size, replace=False, p=weights / weights.sum())
        for size in rng.choice([1, 2, 3, 4], n, p=[0.3, 0.35, 0.25, 0.1])
    ]
    names = [f"{i:04d}.jpg" for i in range(n)]
    labels = [" ".join(CLASSES[k] for k in sorted(row)) for row in shapes]
    captions = [_caption(rng, row) for row in shapes]
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_STORED) as archive:
        for name, row in zip(names, shapes, strict=True):
            archive.writestr(zipfile.ZipInfo(f"images/{name}"), _picture(rng, row))
    cut = n_labelled
    _write(
        folder / "train.csv",
        ("ImageID", "Labels", "Caption"),
        zip(names[:cut], labels[:cut], captions[:cut], strict=True),
    )
    _write(folder / "test.csv", ("ImageID", "Caption"), zip(names[cut:], captions[cut:], strict=True))
    _write(folder / "truth.csv", ("ImageID", "Labels"), zip(names[cut:], labels[cut:], strict=True))
    _write_text_encoder(folder / "text-encoder")


def _write(path: Path, header: tuple[str, ...], rows: zip) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _caption(rng: np.random.Generator, row: np.ndarray) -> str:
    """A caption with words for some of the shapes, or for none."""
    chance = rng.random()
    if chance < BLANK:
        return ""
    named = [k for k in row if rng.random() < NAMED]
    if chance < BLANK + NAMES_NOTHING or not named:
        return str(rng.choice(_OTHERS))
    words = [str(rng.choice(WORDS[CLASSES[k]])) for k in named]
    text = f"{rng.choice(_OPENINGS)} a {' and a '.join(words)} {rng.choice(_EXTRAS)}"
    return text.strip()


def _picture(rng: np.random.Generator, row: np.ndarray) -> bytes:
    """One JPEG: a noisy background, the shapes, and bars over some of them."""
    ground = rng.integers(190, 240, 3)
    pixels = np.clip(ground + rng.normal(0, 14, (PIXELS, PIXELS, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    cells = rng.permutation(4)[: len(row)]
    for k, cell in zip(row, cells, strict=True):
        half = PIXELS // 4
        x, y = (half + 2 * half * np.array([cell % 2, cell // 2]) + rng.integers(-4, 5, 2)).tolist()
        radius = float(rng.uniform(9, 14))
        colour = np.array(_COLOURS[rng.integers(len(_COLOURS))], dtype=float)
        hidden = rng.choice(["tiny", "faint", "barred"]) if rng.random() < HIDDEN else ""
        if hidden == "tiny":
            radius = float(rng.uniform(2.5, 4))
        if hidden == "faint":
            colour = 0.14 * colour + 0.86 * ground
        _draw(draw, CLASSES[k], x, y=y, r=radius, fill=tuple(int(c) for c in colour))
        if hidden == "barred":
            bar = tuple(int(c) for c in rng.integers(60, 200, 3))
            draw.rectangle((x - radius - 1, y - radius * 0.75, x + radius + 1, y + radius * 0.75), fill=bar)
    noisy = np.asarray(image, dtype=float) + rng.normal(0, 8, (PIXELS, PIXELS, 3))
    data = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=90)
    return data.getvalue()


def _draw(draw: ImageDraw.ImageDraw, name: str, x: float, *, y: float, r: float, fill: tuple[int, ...]) -> None:
    """Draw one shape around (x, y)."""
    if name == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif name == "square":
        draw.rectangle((x - r * 0.85, y - r * 0.85, x + r * 0.85, y + r * 0.85), fill=fill)
    elif name == "ring":
        draw.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=max(1, round(r / 3)))
    elif name == "cross":
        w = r / 3
        draw.rectangle((x - r, y - w, x + r, y + w), fill=fill)
        draw.rectangle((x - w, y - r, x + w, y + r), fill=fill)
    else:
        draw.polygon([(x + r * px, y + r * py) for px, py in _OUTLINES[name]], fill=fill)


def _star() -> list[tuple[float, float]]:
    angles = [math.pi * (i / 5 - 0.5) for i in range(10)]
    return [
        ((1.0 if i % 2 == 0 else 0.4) * math.cos(a), (1.0 if i % 2 == 0 else 0.4) * math.sin(a))
        for i, a in enumerate(angles)
    ]


def _heart() -> list[tuple[float, float]]:
    steps = [2 * math.pi * i / 24 for i in range(24)]
    return [
        (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
        for t in steps
    ]


def _moon() -> list[tuple[float, float]]:
    outer = [(math.cos(a), math.sin(a)) for a in np.linspace(math.pi / 2, 3 * math.pi / 2, 12)]
    inner = [(0.45 * math.cos(a), math.sin(a)) for a in np.linspace(3 * math.pi / 2, math.pi / 2, 12)]
    return [(px + 0.4, py) for px, py in outer + inner]


_OUTLINES = {
    "triangle": [(0, -1), (0.95, 0.8), (-0.95, 0.8)],
    "diamond": [(0, -1), (0.65, 0), (0, 1), (-0.65, 0)],
    "arrow": [(-1, -0.3), (0.1, -0.3), (0.1, -0.85), (1, 0), (0.1, 0.85), (0.1, 0.3), (-1, 0.3)],
    "star": _star(),
    "heart": _heart(),
    "moon": _moon(),
}


def _write_text_encoder(folder: Path) -> None:
    """A transformers folder: a tiny untrained BERT with a vocabulary of whole words."""
    folder.mkdir(exist_ok=True)
    phrases = " ".join([*_OPENINGS, *_EXTRAS, *_OTHERS, "a and"])
    words = sorted({*phrases.split(), *(word for group in WORDS.values() for word in group)})
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocabulary = [*special, *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": len(vocabulary),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
