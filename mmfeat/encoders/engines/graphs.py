"""Engines of exported graphs. A graph is in the user's cache folder: each encoder is exported once, for all of them.

A graph is a sealed folder, named by a digest of the encoder and of the packages that export it. It is written under a
temporary name and renamed, so several processes may export at once. A damaged graph is exported again. The graphs that
were not used for longest are removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor

from mmfeat.common.errors import EncoderError, MmfeatError, one_line
from mmfeat.common.files import digest_json, staging_folder
from mmfeat.common.package_versions import package_version
from mmfeat.common.progress import say
from mmfeat.common.seals import FILES, read_record, seal_folder
from mmfeat.common.verified import damaged_file
from mmfeat.config.encoder_tables import MIXED
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.engines.engine import Choice, Engine, arithmetics
from mmfeat.encoders.kinds import encoder_kind
from mmfeat.encoders.onnx_graphs import first_cause, write_encoder_graph
from mmfeat.store.keys import EncoderSpec

GRAPH, RECORD, FORMAT = "model.onnx", "graph.json", 1
KEPT = 16  # graphs
_PACKAGES = ("mmfeat", "torch", "onnx", "onnxscript")


class GraphEngine(Engine):
    """Base class of engines that execute an exported graph on the CPU."""

    exported = True

    @classmethod
    def fast(cls) -> list[str]:
        """The arithmetic that it computes faster than float32 on this processor."""
        return []

    @classmethod
    def choices(cls, encoder: Encoder, device: torch.device) -> list[Choice]:
        """Float32 and, for the precision class `mixed`, faster arithmetic first."""
        if device.type != "cpu" or encoder.precision not in ("float32", MIXED) or not _has_graph(encoder):
            return []
        fast = cls.fast() if encoder.precision == MIXED else []
        return [Choice(cls.name, one) for one in arithmetics(encoder.precision, fast)]

    def graph(self) -> Path:
        """The file of the graph, which is exported if it is not in the cache."""
        return encoder_graph(self.encoder, self.tokens, self.spec)

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """The graph's inputs for a batch of `Encoder.collate`."""
        return {name: tensor.numpy() for name, tensor in self.encoder.with_few_shapes(batch).items()}


def _has_graph(encoder: Encoder) -> bool:
    """Whether an encoder is a network, of a kind that can be exported."""
    kind = encoder_kind(encoder.kind)
    if not kind.settings.network:
        return False
    try:
        kind.onnx_example(encoder)
    except NotImplementedError:
        return False
    return True


def encoder_graph(encoder: Encoder, tokens: int = 0, spec: EncoderSpec | None = None) -> Path:
    """The ONNX file of an encoder, which is exported if it is not in the cache; `spec` is `encoder.spec()`, if known.

    Raises
    ------
    EncoderError
        The network cannot be exported.
    """
    folder = _folder(spec or encoder.spec(), tokens)
    if _is_sound(folder):
        with contextlib.suppress(OSError):
            os.utime(folder)
        return folder / GRAPH
    say(f"{encoder.architecture}: exporting the network once for faster engines")
    with staging_folder(folder.parent, sweep=False) as staged:
        _export(encoder, staged / GRAPH, tokens)
        seal_folder(staged, RECORD, {"format": FORMAT, "architecture": encoder.architecture})
        if folder.exists() and not _is_sound(folder):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was faster
            os.rename(staged, folder)
    if not _is_sound(folder):
        raise EncoderError(f"{folder}: cannot be written")
    _remove_oldest(folder.parent)
    return folder / GRAPH


def _export(encoder: Encoder, file: Path, tokens: int) -> None:
    device = next((tensor.device for tensor in encoder.parameters()), torch.device("cpu"))
    try:
        write_encoder_graph(encoder.cpu().eval(), file, tokens=tokens)
    except (MmfeatError, OSError):
        raise
    except Exception as error:  # the exporter raises various errors for networks that it cannot trace
        raise EncoderError(f"{encoder.architecture} cannot be exported: {one_line(first_cause(error))}") from None
    finally:
        encoder.to(device)


def _folder(spec: EncoderSpec, tokens: int) -> Path:
    versions = {name: package_version(name) for name in _PACKAGES}
    made_from = [spec.architecture, spec.weights, spec.preprocessing, spec.pooling, tokens, versions]
    return user_cache_path("mmfeat") / "graphs" / digest_json(made_from)[:32]


def _is_sound(folder: Path) -> bool:
    try:
        record = read_record(folder / RECORD, FORMAT, {"architecture": str}, "It is exported again")
    except (OSError, ValueError):
        return False
    return not damaged_file(folder, record[FILES], [GRAPH])[0]


def _remove_oldest(parent: Path) -> None:
    with contextlib.suppress(OSError):
        folders = sorted(parent.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in folders[KEPT:]:
            shutil.rmtree(folder, ignore_errors=True)
