"""Weights of encoders: from files without unpickling, from the hub without waiting for one that is out of reach."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mmfeat.errors import EncoderError, one_line
from mmfeat.store.keys import tensors_digest

HUB_SECONDS = 5.0  # to wait for the hub's first answer


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors, or a .pth, .pt or .bin file (`weights_only`: nothing is unpickled).

    Raises
    ------
    EncoderError
        The file is missing, of another kind, damaged, or holds something other than tensors.
    """
    if not path.is_file():
        raise EncoderError(f"{path}: no such file of weights. Give a .safetensors or .pth file, auto or random")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
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
        raise EncoderError(f"{path}: holds no state dict of tensors")
    return state


def load_strictly(module: nn.Module, state: dict[str, Tensor], source: Path, unused: tuple[str, ...] = ()) -> None:
    """Load a state dict, or say exactly what does not fit.

    Parameters
    ----------
    unused : tuple of str
        Prefixes of tensors that the embedding does not read (a classifier, a pooler): they may be there.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted and not name.startswith(unused)]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    found = [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in
             (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)) if names]  # fmt: skip
    if found:
        raise EncoderError(f"{source}: these weights are not of this model: {'; '.join(found)}")
    module.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)


def read_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that an embedding reads: all but counters that only training uses."""
    return {name: t.detach() for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked")}


def digest_of(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of named tensors' bytes, whatever device they are on."""

    def items() -> Iterator[tuple[str, str, tuple[int, ...], bytes]]:
        for name, tensor in sorted(tensors.items()):
            data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            yield name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data

    return tensors_digest(items())


@functools.cache
def hub_within_reach() -> bool:
    """Whether the Hugging Face hub answers at all; asked once, without the client's half-minute of retries."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # any failure means the same here: no answer
        return False
    return True


@contextlib.contextmanager
def hub(name: str, model: str, modality: str, needed: bool) -> Iterator[None]:
    """Load a model, from the hub's folder on disk where the hub is out of reach.

    Parameters
    ----------
    needed : bool
        Whether anything comes from the hub: not for a folder of one's own, or random weights of a known architecture.

    Raises
    ------
    EncoderError
        It cannot be loaded; where the hub has what is not on disk and is out of reach, the message says what to type instead.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not needed or not hub_within_reach()
    try:
        yield
    except (EncoderError, MemoryError):
        raise
    except Exception as error:  # a damaged configuration or file of weights may raise anything
        if needed and constants.HF_HUB_OFFLINE:
            raise EncoderError(
                f"encoder.{name}: {model!r} is not on disk and the hub is out of reach. "
                f"In mmfeat.toml under [encoder.{name}] set: {_INSTEAD[modality]}"
            ) from None
        raise EncoderError(f"encoder.{name}: {model!r} cannot be loaded: {one_line(error)}") from None
    finally:
        constants.HF_HUB_OFFLINE = before


_INSTEAD = {
    "text": 'model = "FOLDER" (a transformers folder)',
    "image": 'pretrained = "FILE" (.safetensors or .pth), or pretrained = "random"',
}
