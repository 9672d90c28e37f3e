"""Decoding large JPEGs in full and at a reduced size, and what that changes in the embeddings.

    python benchmarks/decoding.py IMAGES... --pretrained FILE [--model NAME] [--images N] [--sides 2000 3000 4000]

IMAGES are folders, zip or tar files of photographs. Each photograph is enlarged so that its longer side has the given
pixels, and saved as a JPEG of quality 90: once as it is, and once with noise of a standard deviation of 8 of 255, which
stands for the detail that an enlarged photograph lacks. Each JPEG is prepared in full and reduced, one after the other, in one
thread. Cosines are those of the float32 embeddings. Writes benchmarks/results/decoding.json.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, features
from results_folder import write_results

from mmfeat.common.machine import processor
from mmfeat.config.encoder_tables import ImageEncoderConfig
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.encoders.decoding import USUAL
from mmfeat.encoders.families.image_network import ImageEncoder, build_image_encoder
from mmfeat.encoders.image_decoding import decode_image
from mmfeat.encoders.preparation import ImagePreparation

NOISE = 8.0
QUALITY = 90


def enlarged(data: bytes, side: int, noise: float, draw: np.random.Generator) -> bytes:
    """A photograph as a JPEG whose longer side has `side` pixels."""
    image = decode_image(data)
    scale = side / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    if noise:
        values = np.asarray(image, np.float32)
        values = values + draw.normal(0, noise, values.shape).astype(np.float32)
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def compared(encoder: ImageEncoder, photographs: list[bytes], side: int, noise: float) -> dict[str, Any]:
    """Rates and cosines for photographs of one size."""
    draw, config = np.random.default_rng(0), encoder.preparation.data_config
    ways = {name: ImagePreparation(config, USUAL, reduced=name == "reduced") for name in ("full", "reduced")}
    seconds = dict.fromkeys(ways, 0.0)
    cosines, megapixels = [], 0.0
    for photograph in photographs:
        data, prepared = enlarged(photograph, side, noise, draw), {}
        with Image.open(io.BytesIO(data)) as image:
            megapixels += image.width * image.height / 1e6
        for name, preparation in ways.items():
            start = time.perf_counter()
            prepared[name] = preparation.prepare(data)
            seconds[name] += time.perf_counter() - start
        a, b = encoder.encode(encoder.collate(list(prepared.values())), torch.device("cpu")).embeddings.astype(float)
        cosines.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    n = len(photographs)
    return {
        "longer side": side,
        "noise": noise,
        "images": n,
        "megapixels": megapixels / n,
        "images per second": {name: n / value for name, value in seconds.items()},
        "reduced over full": seconds["full"] / seconds["reduced"],
        "cosine": {
            "median": float(np.median(cosines)),
            "1st percentile": float(np.quantile(cosines, 0.01)),
            "least": min(cosines),
        },
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("places", nargs="+", metavar="IMAGES")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--pretrained", default="auto")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--sides", type=int, nargs="+", default=[1000, 2000, 3000, 4000])
    arguments = parser.parse_args()
    table = ImageEncoderConfig(model=arguments.model, pretrained=arguments.pretrained)
    encoder = build_image_encoder("image", table, Path.cwd(), 0).eval()
    sources = ImageSources(arguments.places)
    names = sources.names()
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, arguments.images).astype(int)]
    photographs = [sources.read(sources.locate(name)) for name in chosen]
    found = {
        "model": arguments.model,
        "pixels": encoder.preparation.data_config["input_size"][-1],
        "device": f"{processor()}, 1 thread for decoding",
        "Pillow": PIL.__version__,
        "libjpeg-turbo": features.version("libjpeg_turbo") or features.version("jpg"),
        "python": platform.python_version(),
        "results": [compared(encoder, photographs, side, noise) for side in arguments.sides for noise in (0.0, NOISE)],
    }
    write_results("decoding", found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
