"""Forward passes by every engine and arithmetic, on the same inputs, by turns.

    python benchmarks/engines.py [IMAGES...] [--image MODEL[:SIZE][=WEIGHTS]]... [--text FOLDER]... [--captions FILE] [--compile]

IMAGES are folders, zip or tar files; by default drawn pictures. CAPTIONS is a CSV file with a column Caption. FOLDER is a
transformers model; `random` is a BERT of MiniLM's size with random weights, `tiny` a smaller one. Each engine's rate is that of its fastest batch,
and its agreement with torch in float32 is measured on the same samples. Writes results/engines.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_folder import device_name, write_results

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import one_line
from mmfeat.config.encoder_tables import ImageEncoderConfig, TextEncoderConfig
from mmfeat.data.demo_data import make_demo
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.engines import engine_class, engines
from mmfeat.encoders.families.image_network import build_image_encoder
from mmfeat.encoders.families.transformer_text import build_text_encoder
from mmfeat.encoders.kinds import encoder_kind

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def image_encoder(text: str) -> tuple[str, Encoder]:
    """An encoder of `MODEL[:SIZE][=WEIGHTS]`."""
    named, _, weights = text.partition("=")
    model, _, size = named.partition(":")
    table = ImageEncoderConfig(
        model=model, pretrained=weights or "random", size=int(size) if size else "auto", precision="mixed"
    )
    encoder = build_image_encoder("image", table, Path.cwd(), 0)
    return f"{model}, {encoder.preparation.data_config['input_size'][1]} px", encoder


def text_encoder(folder: str, demo: Path) -> tuple[str, Encoder]:
    """An encoder of a folder, or a random one with the demo's tokenizer: of MiniLM's size, or the demo's own."""
    title = Path(folder).name
    if folder in ("random", "tiny"):
        own = demo / "text-encoder"
        if folder == "random":
            file = own / "config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **MINILM}))
        folder, title = str(own), "BERT, 6 layers of 384" if folder == "random" else "tiny BERT"
        table = TextEncoderConfig(model=folder, pretrained="random", precision="mixed")
    else:
        table = TextEncoderConfig(model=str(Path(folder).expanduser().resolve()), precision="mixed")
    return title, build_text_encoder("text", table, Path.cwd(), 0)


def measured(encoder: Encoder, samples: list[Any], *, device: torch.device, options: argparse.Namespace) -> Any:
    """Images or captions per second by engine and arithmetic, and how far each is from torch in float32."""
    encoder = encoder.to(device).eval()
    size = options.batch_size or encoder_kind(encoder.kind).usual_batch_size(device.type)
    samples = [samples[i % len(samples)] for i in range(max(size, 64))]
    batches = [encoder.collate(samples[start : start + size]) for start in range(0, len(samples) - size + 1, size)]
    opened, found = {}, {"batch size": size, "rates": {}, "agreement": {}, "left out": {}}
    for name, engine in engines().items():
        if (name == "compile" and not options.compile) or not engine.installed():
            continue
        for choice in engine.choices(encoder, device):
            try:
                opened[str(choice)] = engine_class(name)(encoder, device, choice)
                opened[str(choice)].encode(batches[0])
            except Exception as error:
                found["left out"][str(choice)] = one_line(error)
                opened.pop(str(choice), None)
    reference = opened["torch (float32, channels-last on)" if encoder.kind == "image" else "torch (float32)"]
    wanted = np.concatenate([reference.encode(batch).embeddings for batch in batches])
    fastest = dict.fromkeys(opened, math.inf)
    for _ in range(options.rounds):
        for name, engine in opened.items():
            encoder.set_speed(**engine.choice.settings)
            engine.encode(batches[0])
            begin, n = time.perf_counter(), 0
            while n < 2 or time.perf_counter() - begin < options.seconds:
                before = time.perf_counter()
                engine.encode(batches[n % len(batches)])
                fastest[name], n = min(fastest[name], time.perf_counter() - before), n + 1
    for name, engine in opened.items():
        encoder.set_speed(**engine.choice.settings)
        embeddings = np.concatenate([engine.encode(batch).embeddings for batch in batches])
        cosines = (embeddings * wanted).sum(1) / np.linalg.norm(embeddings, axis=1) / np.linalg.norm(wanted, axis=1)
        found["rates"][name] = size / fastest[name]
        found["agreement"][name] = {
            "largest difference, relative": float(np.abs(embeddings - wanted).max() / np.abs(wanted).max()),
            "cosine, median": float(np.median(cosines)),
            "cosine, least": float(cosines.min()),
        }
    return found


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*")
    parser.add_argument("--image", action="append", default=[], metavar="MODEL[:SIZE][=WEIGHTS]")
    parser.add_argument("--text", action="append", default=[], metavar="FOLDER")
    parser.add_argument("--captions", default="")
    parser.add_argument("--compile", action="store_true", help="measure the engine compile too, which takes minutes")
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each engine in a round")
    options = parser.parse_args()
    device, found = torch_device("auto"), {}
    with tempfile.TemporaryDirectory() as folder:
        demo = Path(folder)
        make_demo(demo, seed=0, n_labelled=64, n_unlabelled=8)
        sources = ImageSources(options.images or [str(demo / "images.zip")])
        blobs = [sources.read(sources.locate(name)) for name in sources.names()[:64]]
        with Path(options.captions or demo / "train.csv").expanduser().open(encoding="utf-8", newline="") as file:
            captions = [row["Caption"] for row in csv.DictReader(file)][:512]
        for text in options.image:
            title, encoder = image_encoder(text)
            found[title] = measured(encoder, [encoder.prepare(one) for one in blobs], device=device, options=options)
        for text in options.text:
            title, encoder = text_encoder(text, demo)
            found[title] = measured(encoder, [encoder.prepare(one) for one in captions], device=device, options=options)
    name = device_name()
    for title, one in found.items():
        print(f"{title}, batches of {one['batch size']}, {name}")
        base = max(rate for what, rate in one["rates"].items() if what.startswith("torch (float32"))
        for what, rate in one["rates"].items():
            agreement = one["agreement"][what]
            print(f"  {what:40s} {rate:10,.1f}/s {rate / base:7.2f} x   least cosine {agreement['cosine, least']:.5f}")
    print(f"Made {write_results('engines', {'device': name, 'torch': torch.__version__, 'models': found})}")


if __name__ == "__main__":
    main()
