"""The models that a round of self-training trains: those of the paper (section 3.1.4), or linear models and an MLP.

The number of epochs is fixed, because val rows may be few and are needed to evaluate the round.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmfeat.config.schema import FuseConfig, LinearConfig, MlpConfig, SelftrainConfig
from mmfeat.heads.head import log_odds
from mmfeat.heads.training.fit_heads import FitData, fit_head, usual_batch
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.runs.ensembles import RECIPE_HEADS, combined

# the models of all policies but paper; the run's own head does not matter
LINEAR, MLP = LinearConfig(), MlpConfig(hidden=256, lr=8e-4)
STEPS, LARGE = 480, 512  # approximate number of steps of a fit, and largest batch size
FEWEST_EPOCHS, MOST_EPOCHS = 4, 40

# logits `(N, K)` of all rows: of the fused models, which are the teacher, and of the model that is judged on val
Logits = tuple[np.ndarray, np.ndarray]
# encoder to logits `(N, K)` of its own linear output, if a round fine-tuned it
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class RoundModels:
    """Trains the models of a round.

    Attributes
    ----------
    linear : LinearConfig
        Settings of the linear output of a modality.
    head : str
        The head whose logits are fused with those of the modalities; empty for none.
    settings : HeadConfig or None
        Settings of this head.
    fused_is_judged : bool
        Whether val judges the fused models, as in the paper, or the head alone.
    """

    linear: Any
    head: str = ""
    settings: Any = None
    fused_is_judged: bool = False

    @classmethod
    def of(cls, config: SelftrainConfig, fuse: FuseConfig, settings: Any = None) -> RoundModels:
        """The models of a policy.

        Parameters
        ----------
        fuse : FuseConfig
            The settings of the linear output and of the head that the teacher of policy `paper` has.
        settings : HeadConfig, optional
            Those of the head, with what depends on its inputs filled in.
        """
        if config.policy != "paper":
            return cls(linear=LINEAR, head="mlp", settings=MLP)
        head = teacher_head(config)
        own = (settings or fuse.settings_of(head)) if head else None
        return cls(linear=fuse.linear, head=head, settings=own, fused_is_judged=True)

    def of_training(self) -> list[dict[str, Any]]:
        """The settings that the rounds depend on, as JSON values."""
        return [self.linear.of_training(), *([self.settings.of_training()] if self.head else [])]

    def trained(self, data: FitData, seed: int, outputs: Outputs | None = None) -> Logits:
        """Train a linear model per encoder, unless `outputs` has its logits, and the head on all; fuse them by their mean."""
        outputs, alone = outputs or {}, dataclasses.replace(data, val=data.val[:0])
        parts = [("linear", alone.only(name), self.linear) for name in data.widths if name not in outputs]
        parts += [(self.head, alone, self.settings)] if self.head else []
        logits, present = list(outputs.values()), [_present(data, [name]) for name in outputs]
        for name, part, config in parts:
            fitted = fit_head(name, part, for_rows(config, len(part.train)), seed=seed)
            logits.append(head_logits(fitted.head, part))
            present.append(_present(part, list(part.widths)))
        prior = log_odds(data.labels[torch.as_tensor(data.train, device=data.labels.device)]).cpu().numpy()
        fused = combined(logits, present, [1 / len(logits)] * len(logits), prior)
        return fused, fused if self.fused_is_judged else logits[-1]


def teacher_head(config: SelftrainConfig) -> str:
    """The head that is part of the teacher of policy `paper`, besides the modalities; empty for none."""
    return RECIPE_HEADS.get(config.teacher, "") if config.policy == "paper" else ""


def for_rows(config: Any, n_rows: int) -> Any:
    """A head's settings for a number of rows: epochs for about `STEPS` steps, and a larger learning rate for large batches."""
    size = usual_batch(n_rows, LARGE)
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS / math.ceil(n_rows / size))))
    lr = config.lr * (size / usual_batch(n_rows)) ** 0.5
    return dataclasses.replace(config, batch_size=size, epochs=epochs, lr=lr)


def _present(data: FitData, names: list[str]) -> np.ndarray:
    """Rows `(N,)` bool that have the modality of any of the encoders."""
    return np.any([data.present[name].cpu().numpy() for name in names], axis=0)
