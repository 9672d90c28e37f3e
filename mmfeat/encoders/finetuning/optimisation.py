"""Parts of a fine-tuning step: learning rates by layer, average of the weights, precision, size of batch pieces."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mmfeat.common.errors import EncoderError
from mmfeat.common.optimizers import OPTIMIZERS
from mmfeat.config.encoder_tables import MIXED
from mmfeat.config.finetune_recipes import FinetuneConfig
from mmfeat.encoders.checkpoint import LinearProbe
from mmfeat.encoders.encoder import Encoder

_FEW = 16  # samples of a piece on a CPU
_FEW_OF_TAIL = 64  # of a tail, whose maps are small


def freeze_layers(encoder: Encoder, n_layers: int) -> None:
    """Freeze the parameters of the first layers."""
    depths = encoder.layers()
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(depths[name] >= n_layers)


def optimizer_of(encoder: Encoder, output: nn.Linear, config: FinetuneConfig) -> torch.optim.Optimizer:
    """Adam or AdamW with a learning rate that falls by `layer_decay` per layer, from the output to the input.

    Layer-wise decay as in ELECTRA (Clark et al., 2020) and BEiT (Bao et al., 2022). Biases and scales of norms have no weight
    decay. A group's `share` is the factor of its learning rate at every step.
    """
    depths = encoder.layers()
    top = max(depths.values(), default=0)
    groups: dict[tuple[int, bool], list[Tensor]] = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((depths[name], parameter.ndim > 1), []).append(parameter)
    for parameter in output.parameters():
        groups.setdefault((top, parameter.ndim > 1), []).append(parameter)
    described = [
        {
            "params": parameters,
            "share": config.layer_decay ** (top - depth),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (depth, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    return OPTIMIZERS[config.optimizer](described, lr=config.lr)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step, multiplied by each group's `share`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


class Average:
    """The exponential moving average of tensors (Polyak averaging).

    Parameters
    ----------
    decay : float
        Weight of the old average at each step; it is lower in the first steps.
    """

    def __init__(self, tensors: list[Tensor], decay: float) -> None:
        self.followed, self.decay = tensors, decay
        self.tensors = [tensor.detach().clone() for tensor in tensors]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the tensors after a step to the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self.tensors, self.followed, step)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in place of the tensors within this context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for tensor, average in zip(self.followed, self.tensors, strict=True):
            now = tensor.detach().clone()
            tensor.copy_(average)
            average.copy_(now)


def keep_statistics(encoder: nn.Module) -> None:
    """Put batch norms into eval mode, so that training does not change their statistics."""
    for module in _batch_norms(encoder):
        module.eval()


def has_statistics(encoder: nn.Module) -> bool:
    """Whether an encoder has batch norms."""
    return any(True for _ in _batch_norms(encoder))


def _batch_norms(encoder: nn.Module) -> Iterator[nn.Module]:
    return (module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))


def training_precision(asked: str, own: str, device: torch.device) -> str:
    """The arithmetic of training; `auto` is bfloat16 on a GPU that supports it, otherwise the encoder's own.

    For an encoder of the precision class `mixed`, `auto` is float32 on a CPU.

    Raises
    ------
    EncoderError
        The precision is float16 on a CPU, where gradients underflow.
    """
    if asked == "auto":
        own = "float32" if own == MIXED else own
        fast = own == "float32" and device.type == "cuda" and torch.cuda.is_bf16_supported()
        asked = "bfloat16" if fast else own
    if asked == "float16" and device.type == "cpu":
        raise EncoderError('a CPU cannot fine-tune in float16. Set: precision = "bfloat16" or "float32"')
    return asked


def piece_size(config: FinetuneConfig, device: torch.device, tail: bool = False) -> int:
    """Number of samples of a piece. On a CPU it is small, to fit its caches, if this does not change the result.

    That of a `tail` is larger.
    """
    if config.accumulate:
        return math.ceil(config.batch_size / config.accumulate)
    few = device.type == "cpu" and config.batch_norm == "frozen"
    return min(_FEW_OF_TAIL if tail else _FEW, config.batch_size) if few else config.batch_size


def linear_probe(width: int, n_classes: int, seed: int, start: LinearProbe | None) -> nn.Linear:
    """The linear probe at the start of training: the fitted one, or one with small random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = nn.Linear(width, n_classes)
    nn.init.zeros_(output.bias)
    if start is not None:
        output.load_state_dict({"weight": torch.from_numpy(start.weight), "bias": torch.from_numpy(start.bias)})
    return output
