"""An exported model beside the bare forward passes of its encoders: one item and batches, by torch and by onnxruntime.

    python benchmarks/predict.py PROJECT RUN [--rows N] [--repetitions N] [--archive ZIP] [--out NAME]
    python benchmarks/predict.py PROJECT RUN --engines [--rows N] [--repetitions N] [--out NAME]

Exports the run to a temporary folder in each form, and takes images and captions from the project's val rows; images are
decoded beforehand. For each runtime, alternating:

- bare: the encoders' forward passes of the same items, in batches of the same sizes, prepared and on the device before;
- end to end: `Predictor.predict` from decoded images and captions to probabilities and opinions;
- for one item also from the bytes of its file.

With --engines nothing of this, but the default engine over torch: `Predictor.predict` by the engines of `Predictor.load(MODEL)`,
once it has selected them (as a server does when it starts) and they have agreed with torch, over the same folder's encoders
by eager torch in float32, which version 0.1 did; batches, and one item. For the table of benchmarks/README.md:

    python benchmarks/predict.py FLOAT32 concat-1 --engines --rows 256 --out float32
    python benchmarks/predict.py MIXED concat-1 --engines --rows 256 --out mixed

FLOAT32 and MIXED are projects whose encoders have `precision = "float32"` and `"mixed"`. What engines were measured before is
not read: the cache folder is a temporary one.

Figures are medians over the repetitions, ratios those of neighbours in time. With --archive (a zip file of JPEG files) the
server's throughput beside the Predictor's own is measured as well, by serve_load.py. Writes benchmarks/results/predict-RUN.json
or predict-engines-RUN.json (or --out in place of RUN).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `mmfeat predict` and `mmfeat serve` set it

import numpy as np
import torch
from results_folder import device_name, write_results

from mmfeat.common.devices import torch_device
from mmfeat.common.extras import require
from mmfeat.encoders.batches import groups_of
from mmfeat.encoders.engines import engine_class
from mmfeat.encoders.engines.selection import Selected
from mmfeat.encoders.image_decoding import decode_image
from mmfeat.encoders.kinds import modality_kind
from mmfeat.predictor import Predictor
from mmfeat.project.project import Project
from mmfeat.workflows.export import export

ONE = 20  # single items of a repetition
ENGINE = {"torch": "torch", "onnx": "onnxruntime"}
FORMS = (("torch", "float32"), ("torch", "float16"), ("onnx", "float32"), ("onnx", "float16"))


def prepared(predictor: Predictor, images: list[Any], captions: list[str]) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """The batches that the predictor makes of so many items, each with the name of its encoder, on the device."""
    batches = []
    for name, modality in predictor.modalities.items():
        preparation = predictor.networks.preparations[name]
        samples = images if modality == "image" else sorted(captions, key=len)
        size = modality_kind(modality).usual_batch_size(predictor.networks.device.type)
        for group in groups_of(np.arange(len(samples)), size):
            inputs = preparation.collate([preparation.prepare(samples[row]) for row in group])
            if predictor.record["runtime"] == "torch":
                inputs = {key: tensor.to(predictor.networks.device) for key, tensor in inputs.items()}
            batches.append((name, inputs))
    return batches


def bare(predictor: Predictor, batches: list[tuple[str, dict[str, torch.Tensor]]]) -> None:
    """The encoders' forward passes and nothing else."""
    for name, inputs in batches:
        predictor.networks.encode(name, inputs)


def seconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(predictor: Predictor, blobs: list[bytes], captions: list[str], repetitions: int) -> dict[str, Any]:
    """Medians and ratios for one runtime."""
    images = [decode_image(blob) for blob in blobs]
    batches = prepared(predictor, images, captions)
    ones = [prepared(predictor, images[i : i + 1], captions[i : i + 1]) for i in range(ONE)]
    calls = {
        "one, bare": lambda: [bare(predictor, one) for one in ones],
        "one, decoded": lambda: [predictor.predict(images[i], captions[i]) for i in range(ONE)],
        "one, file": lambda: [predictor.predict(blobs[i], captions[i]) for i in range(ONE)],
        "batches, bare": lambda: bare(predictor, batches),
        "batches, decoded": lambda: predictor.predict(images, captions),
        "batches, bare again": lambda: bare(predictor, batches),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repetitions + 1):  # the first warms up
        for name, call in calls.items():
            spent = seconds(call)
            if repetition:
                times[name].append(spent)
    around = [(a + b) / 2 for a, b in zip(times["batches, bare"], times["batches, bare again"], strict=True)]
    ratios = [a / b for a, b in zip(around, times["batches, decoded"], strict=True)]
    one = [a / b for a, b in zip(times["one, bare"], times["one, decoded"], strict=True)]
    return {
        "one item, ms": {
            key: statistics.median(times[f"one, {key}"]) * 1e3 / ONE for key in ("bare", "decoded", "file")
        },
        "items a second": {
            "bare": len(blobs) / statistics.median(around),
            "end to end": len(blobs) / statistics.median(times["batches, decoded"]),
        },
        "end to end over bare, batches": {"median": statistics.median(ratios), "all": sorted(ratios)},
        "end to end over bare, one item": {"median": statistics.median(one), "all": sorted(one)},
    }


def by_torch(model: Path) -> Predictor:
    """A predictor whose encoders are executed by eager torch in float32, whatever their precision class."""
    predictor = Predictor.load(model, engine="torch")
    networks = predictor.networks
    for name, encoder in networks.encoders.items():
        read = networks.tokens.get(name)
        choices = engine_class("torch").choices(encoder, networks.device)
        usual = next(one for one in choices if one.arithmetic == "float32")
        engine = engine_class("torch")(encoder, networks.device, usual, tokens=read.number if read else 0)
        networks._selected[name] = Selected(engine, 0)
    return predictor


def by_engines(model: Path, blobs: list[bytes], captions: list[str], repetitions: int) -> dict[str, Any]:
    """End to end with the engines that are selected by default over torch in float32: batches, and one item."""
    images = [decode_image(blob) for blob in blobs]
    found = {"torch": by_torch(model), "default": Predictor.load(model)}
    selecting = seconds(found["default"].select_engines)
    calls = {
        "batches": lambda one: one.predict(images, captions),
        "one item": lambda one: [one.predict(images[i], captions[i]) for i in range(ONE)],
    }
    for call in calls.values():  # warms up; engines end their trial
        for one in found.values():
            call(one)
    loading = {}
    for name in ("torch", "default"):  # the default one knows its engines now
        start = time.perf_counter()
        one = Predictor.load(model, engine="torch") if name == "torch" else Predictor.load(model)
        loaded = time.perf_counter()
        one.predict(images[0], captions[0])
        loading[name] = {"load, s": loaded - start, "first item, s": time.perf_counter() - loaded}
    results: dict[str, Any] = {
        "engines": {name: one.networks.engines for name, one in found.items()},
        "seconds to select": selecting,
        "loading": loading,
    }
    for what, call in calls.items():
        times: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(repetitions):
            for name, one in found.items():
                times[name].append(seconds(lambda call=call, one=one: call(one)))
        ratios = [a / b for a, b in zip(times["torch"], times["default"], strict=True)]
        n = len(images) if what == "batches" else ONE
        results[f"default over torch in float32, {what}"] = {"median": statistics.median(ratios), "all": sorted(ratios)}
        results[f"items a second, {what}"] = {name: n / statistics.median(one) for name, one in times.items()}
    return results


def served(model: Path, archive: str) -> dict[str, float] | None:
    """The server beside the Predictor, where that benchmark is there."""
    try:
        from serve_load import measure as measure_server
    except ImportError:
        return None
    return measure_server(model, archive)


def main() -> None:
    """Export, measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("run")
    parser.add_argument("--engines", action="store_true", help="measure the default engine over torch in float32")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", default="", help="the name of the results; by default that of the run")
    parser.add_argument("--archive", default="", help="a zip file of JPEG files, for the server")
    arguments = parser.parse_args()
    project = Project(arguments.project)
    rows = project.manifest.rows("val")[: arguments.rows]
    read = project.reader("image")
    blobs = [read(int(row)) for row in rows]
    captions = [str(project.manifest.captions[row]) for row in rows]
    sizes, differences, found = {}, {}, {}
    load = os.getloadavg()[0]  # of others: the machine may be shared
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("HF_HOME", str(Path("~/.cache/huggingface").expanduser()))  # models stay where they are
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        for runtime, dtype in FORMS[: 1 if arguments.engines else None]:
            one = export(project, arguments.run, Path(folder) / f"{runtime}-{dtype}", dtype=dtype, format=runtime)
            sizes[f"{runtime}, {dtype}"] = one.size_mb
            differences[f"{runtime}, {dtype}"] = one.difference
        model, server = Path(folder) / "torch-float32", None
        if arguments.engines:
            found = by_engines(model, blobs, captions, arguments.repetitions)
        else:
            for runtime in ("torch", "onnx"):
                predictor = Predictor.load(Path(folder) / f"{runtime}-float32", engine=ENGINE[runtime])
                found[runtime] = measure(predictor, blobs, captions, arguments.repetitions)
            server = served(model, arguments.archive) if arguments.archive else None
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": require("onnxruntime", "onnx").__version__,
    }
    results = {
        "run": arguments.run,
        "rows": len(rows),
        "repetitions": arguments.repetitions,
        "batch sizes": {
            modality: modality_kind(modality).usual_batch_size(torch_device("auto").type)
            for modality in ("image", "text")
        },
        "device": device_name(),
        "load average": load,
        "versions": versions,
        "size, MB": sizes,
        "largest difference of a probability from the cached features": differences,
        **found,
        "server": server,
    }
    write_results(f"predict-{'engines-' if arguments.engines else ''}{arguments.out or arguments.run}", results)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
