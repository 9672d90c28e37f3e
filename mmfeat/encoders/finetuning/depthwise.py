"""Gradients of depthwise convolutions in bfloat16 on a CPU, where torch's are several times slower than in float32.

The gradient of a 5 x 5 kernel is put together from those of 3 x 3 kernels on shifted inputs, and that of the input of a strided
convolution is computed in float32: for both, torch has fast code. The values are those of torch to rounding.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_FAST = 3  # side of the kernels that torch is fast at


def fast_depthwise(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """A context in which depthwise convolutions have fast gradients, on a device and in a precision that need it."""
    return FastDepthwise() if device.type == "cpu" and precision == "bfloat16" else contextlib.nullcontext()


class FastDepthwise(TorchFunctionMode):
    """Computes depthwise convolutions in bfloat16, with fast gradients."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace depthwise convolutions; leave all other functions as they are."""
        kwargs = kwargs or {}
        if func is functional.conv2d and _is_replaced(*args, **kwargs):
            return _apply(*args, **kwargs)
        return func(*args, **kwargs)


def _is_replaced(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> bool:
    side = weight.shape[-1]
    if x.device.type != "cpu" or weight.shape[1] != 1 or side not in (_FAST, 5) or not weight.requires_grad:
        return False
    _, _, padding, dilation, groups = _arguments(*args, **kwargs)
    plain = isinstance(padding, int | tuple) and _pair(dilation) == (1, 1) and weight.shape[-2] == side
    return plain and groups == x.shape[1] == weight.shape[0]


def _arguments(
    bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> tuple[Any, ...]:
    return bias, stride, padding, dilation, groups


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _apply(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    bias, stride, padding, _, _ = _arguments(*args, **kwargs)
    x, weight, bias = (None if t is None else t.to(torch.bfloat16) for t in (x, weight, bias))
    found = _Depthwise.apply(x, weight, _pair(stride), _pair(padding))
    return found if bias is None else found + bias.view(1, -1, 1, 1)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        with torch.autocast("cpu", enabled=False):
            return torch.conv2d(x, weight, None, stride, padding, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
        dx = None
        if ctx.needs_input_grad[0]:
            dtype = x.dtype if ctx.stride == (1, 1) else torch.float32
            dx = _backward(
                grad.to(dtype), x.to(dtype), weight.to(dtype), stride=ctx.stride, padding=ctx.padding, of_input=True
            )[0].to(x.dtype)
        return dx, _of_weight(grad, x, weight, ctx.stride, padding=ctx.padding), None, None


def _of_weight(grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], *, padding: tuple[int, int]) -> Tensor:
    side = weight.shape[-1]
    if side == _FAST:
        return _backward(grad, x, weight, stride=stride, padding=padding, of_input=False)[1]
    found = torch.empty_like(weight)
    few = weight[..., :_FAST, :_FAST].contiguous()
    height, width = ((n - 1) * step + _FAST for n, step in zip(grad.shape[-2:], stride, strict=True))
    for top in (0, side - _FAST):
        for left in (0, side - _FAST):
            above, before = padding[0] - top, padding[1] - left
            margins = (before, width - x.shape[-1] - before, above, height - x.shape[-2] - above)
            part = functional.pad(x, margins)  # negative margins cut
            one = _backward(grad, part, few, stride=stride, padding=(0, 0), of_input=False)[1]
            found[..., top : top + _FAST, left : left + _FAST] = one
    return found


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, *, stride: tuple[int, int], padding: tuple[int, int], of_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    mask = [of_input, not of_input, False]
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, list(stride), list(padding), [1, 1], False, [0, 0], x.shape[1], mask
    )
