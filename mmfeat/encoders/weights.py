"""Loads weights of encoders: from files without unpickling, and from the hub without long retries when offline."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mmfeat.common.errors import EncoderError, one_line
from mmfeat.store.keys import tensors_digest

HUB_SECONDS = 5.0  # timeout for the hub's first answer


class ModelUnavailable(EncoderError):
    """A model's own files are missing, or cannot be loaded."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors, or a .pth, .pt or .bin file (`weights_only`: nothing is unpickled).

    Raises
    ------
    EncoderError
        The file is missing, damaged or of another format, or does not contain a state dict of tensors.
    """
    if not path.is_file():
        raise EncoderError(f"{path}: no such file of weights. Give a .safetensors or .pth file, auto or random")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            return load(path.read_bytes())  # truncating a memory-mapped file later would kill the process
        if path.suffix not in (".pth", ".pt", ".bin"):
            raise EncoderError(f"{path}: weights are read from .safetensors, .pth, .pt or .bin files")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except EncoderError:
        raise
    except Exception as error:  # each of the readers has its own exceptions for a damaged file
        raise EncoderError(f"{path}: cannot be read as weights: {one_line(error)}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise EncoderError(f"{path}: contains no state dict of tensors")
    return state


def load_strictly(module: nn.Module, state: dict[str, Tensor], source: Path, unused: tuple[str, ...] = ()) -> None:
    """Load a state dict; the error lists what does not fit.

    Parameters
    ----------
    unused : tuple of str
        Prefixes of tensors that the embedding does not read (a classifier, a pooler) and that the file may have.
    """
    wanted = module.state_dict()
    prefix = _prefix(state, wanted, source)
    above = ["".join(prefix.partition(part + ".")[:2]) for part in prefix.split(".")[:-1]]
    idle = tuple(start + one for start in ("", *above) for one in unused)
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.removeprefix(prefix) in wanted or not name.startswith(idle)
    }
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted and not name.endswith("num_batches_tracked")]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    found = [
        f"{len(names)} {what} ({', '.join(names[:3])})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if found:
        advice = (
            ", but their shapes match in order: save them under the model's names" if _in_order(state, wanted) else ""
        )
        raise EncoderError(f"{source}: the weights do not fit this model: {'; '.join(found)}{advice}")
    module.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)


def _prefix(state: dict[str, Tensor], wanted: dict[str, Tensor], source: Path) -> str:
    """The common prefix of a file's names, such as `module.`, `backbone.` or `bert.`; usually empty."""
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    ends = tuple(f".{name}" for name in names[:1] + names[-1:])
    candidates = {name.removesuffix(end[1:]) for name in state for end in ends if name.endswith(end)}
    found = {prefix: sum(prefix + name in state for name in names) for prefix in sorted({"", *candidates})}
    most = max(found.values())
    best = [prefix for prefix, number in found.items() if number == most]
    if len(best) > 1 and 2 * most > len(names) and "" not in best:
        raise EncoderError(
            f"{source}: contains several networks of this kind ({', '.join(best)}). Save only one of them"
        )
    return (
        best[0] if 2 * most > len(names) else ""
    )  # with fewer matches it is another model, whose full names are shown


def _in_order(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    """Whether tensors have the wanted shapes in the wanted order; a classifier's two tensors may follow."""

    def shapes(tensors: dict[str, Tensor]) -> list[torch.Size]:
        return [t.shape for name, t in tensors.items() if not name.endswith("num_batches_tracked")]

    given, needed = shapes(state), shapes(wanted)
    return given[: len(needed)] == needed and len(given) - len(needed) in (0, 2)


def read_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that an embedding depends on: all except the batch counters of batch norms."""
    return {name: t.detach() for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked")}


def digest_of(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of named tensors' bytes, on any device."""

    def items() -> Iterator[tuple[str, str, tuple[int, ...], bytes]]:
        for name, tensor in sorted(tensors.items()):
            data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            yield name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data

    return tensors_digest(items())


@functools.cache
def within_reach(url: str) -> bool:
    """Whether a URL answers; tried once per process. False with HF_HUB_OFFLINE."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(url, timeout=HUB_SECONDS)
    except Exception:  # any failure means no answer
        return False
    return True


def hub_within_reach() -> bool:
    """Whether the Hugging Face hub answers."""
    from huggingface_hub import constants

    return within_reach(constants.ENDPOINT)


def hub_folder(model: str) -> Path:
    """The folder of a model in the Hugging Face hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / ("models--" + model.replace("/", "--"))


def torch_hub_file(url: str) -> Path:
    """The file of a URL in the cache of torch.hub."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


@contextlib.contextmanager
def hub(name: str, model: str, modality: str, needed: bool) -> Iterator[None]:
    """Load a model in the block; from the cache on disk if the hub does not answer.

    Parameters
    ----------
    needed : bool
        Whether the block reads the hub; False for a local folder, or random weights of a known architecture.

    Raises
    ------
    ModelUnavailable
        The model cannot be loaded. If it is not on disk and the hub does not answer, the message has an alternative.
    """
    from huggingface_hub import constants

    with offline(constants.HF_HUB_OFFLINE or not needed or not hub_within_reach()):
        try:
            yield
        except (EncoderError, MemoryError):
            raise
        except Exception as error:  # a damaged configuration or weight file may raise anything
            if needed and constants.HF_HUB_OFFLINE:
                raise ModelUnavailable(
                    f"encoder.{name}: {model!r} is not on disk and the hub is out of reach. "
                    f"In mmfeat.toml under [encoder.{name}] set: {INSTEAD[modality]}"
                ) from None
            raise ModelUnavailable(f"encoder.{name}: {model!r} cannot be loaded: {one_line(error)}") from None


@contextlib.contextmanager
def offline(wanted: bool = True) -> Iterator[None]:
    """Read models from the disk only in the block, whether the hub answers or not; no change if it is not `wanted`."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


INSTEAD = {
    "text": 'model = "FOLDER" (a transformers folder)',
    "image": 'pretrained = "FILE" (.safetensors or .pth), or pretrained = "random"',
}
