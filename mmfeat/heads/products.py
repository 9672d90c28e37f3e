"""Linear layers on inputs that many heads of one fit share."""

from __future__ import annotations

from torch import Tensor, nn


class InputLinear(nn.Linear):
    """`W x + b` on inputs `(B, D)`; equivalent to :class:`torch.nn.Linear`, and faster if heads share their inputs.

    Under `torch.func.vmap` the heads' weights are `(V, K, D)`, and the inputs have no dimension for heads. Computed as
    `(W x^T)^T`, this is one product of `(V K, D)` and `(D, B)`; torch's own `x W^T` copies the inputs for each head.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(B, D)` to `(B, K)`."""
        product = (self.weight @ x.mT).mT
        return product if self.bias is None else product + self.bias
