"""Cuts networks of transformers between their blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mmfeat.encoders.cut import ACTIVATIONS, Cut, check_stages, part_of, uncuttable

if TYPE_CHECKING:
    from mmfeat.encoders.families.transformer_text import TextEncoder

_BLOCKS = ("encoder.layer", "transformer.layer")  # of BERT, RoBERTa, XLM-R, ELECTRA, MiniLM; of DistilBERT


@dataclass(frozen=True, kw_only=True, eq=False)
class TextCut(Cut):
    """A network of transformers, cut between two blocks. Activations are the tokens' states `(B, L, D)`."""

    encoder: TextEncoder
    blocks: nn.ModuleList

    @property
    def shape(self) -> tuple[int, ...]:
        """`(D,)`: that of one token."""
        return (self.encoder.width,)

    def front(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The states of the tokens and their mask."""
        return {ACTIVATIONS: self.before(**batch).last_hidden_state, "attention_mask": batch["attention_mask"]}

    def tail(self, inputs: dict[str, Tensor]) -> Tensor:
        """The blocks after the cut, and the pooling."""
        return self.encoder._pooled(self._states(inputs), inputs["attention_mask"])

    def tail_tokens(self, inputs: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """As the whole encoder."""
        return self.encoder._first_states(self._states(inputs), inputs["attention_mask"], number)

    def _states(self, inputs: dict[str, Tensor]) -> Tensor:
        """The states of the last block, `(B, L, D)`."""
        from transformers.masking_utils import create_bidirectional_mask

        states, mask = inputs[ACTIVATIONS].float(), inputs["attention_mask"]
        network = self.encoder.network
        seen = create_bidirectional_mask(config=network.config, inputs_embeds=states, attention_mask=mask)
        for block in list(self.blocks)[-self.trained :]:
            found = block(states, seen)
            states = found[0] if isinstance(found, tuple) else found
        return states

    def gathered(self, rows: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
        """A batch of stored states, padded to the longest."""
        states = [row[ACTIVATIONS] for row in rows]
        longest = max(map(len, states))
        joined = np.zeros((len(rows), longest, states[0].shape[1]), states[0].dtype)
        mask = np.zeros((len(rows), longest), np.int64)
        for i, one in enumerate(states):
            joined[i, : len(one)] = one
            mask[i, : len(one)] = 1
        return {ACTIVATIONS: torch.from_numpy(joined), "attention_mask": torch.from_numpy(mask)}


def cut_text(encoder: TextEncoder, trained: int) -> TextCut:
    """Cut before the last `trained` blocks.

    Raises
    ------
    EncoderError
        The network's blocks are not known, there are fewer, or it pads captions on the left.
    """
    modules = dict(encoder.network.named_modules())
    path = next((path for path in _BLOCKS if isinstance(modules.get(path), nn.ModuleList)), None)
    if path is None or encoder.preparation.tokenizer.padding_side != "right":
        raise uncuttable(encoder)
    blocks = modules[path]
    check_stages(encoder, trained, len(blocks), "blocks")
    kept = len(blocks) - trained
    cut = TextCut(
        encoder=encoder,
        n_stages=len(blocks),
        trained=trained,
        modules={f"network.{path}.{i}": blocks[i] for i in range(kept, len(blocks))},
        before=part_of(encoder.network, {path: nn.ModuleList(list(blocks)[:kept])}),
        blocks=blocks,
    )
    encoder.eval()
    batch = encoder.collate([encoder.prepare(caption) for caption in encoder.preparation.examples])
    try:
        with torch.inference_mode():
            whole = encoder(batch)
        cut.check(batch, whole)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # blocks with other arguments
        raise uncuttable(encoder) from None
    return cut
