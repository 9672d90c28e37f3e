"""Fine-tunes one encoder with a linear probe on its modality (paper, section 3.1; P4 to P8).

Randomness is a function of (seed, epoch or step, id), and the state is saved every few minutes. A fine-tuning that is
interrupted and resumed therefore equals an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from mmfeat.config.finetune_recipes import FinetuneConfig
from mmfeat.config.schema import PredictConfig
from mmfeat.encoders.checkpoint import LinearProbe
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.finetuning.training_samples import Samples
from mmfeat.encoders.finetuning.validated_epochs import EncoderFit, FittedEncoder


def fit_encoder(
    encoder: Encoder,
    samples: Samples,
    config: FinetuneConfig,
    *,
    metric: str,
    rule: PredictConfig,
    seed: int,
    device: torch.device,
    resume_file: Path,
    fingerprint: str,
    start: LinearProbe | None = None,
    logs: Path | None = None,
    before: Callable[[int, float], None] | None = None,
) -> FittedEncoder:
    """Fine-tune an encoder; an interrupted fit with the same fingerprint is resumed.

    Afterwards the encoder has the weights of its best epoch on val, or of the last epoch if no val row can be decoded. The
    state stays in `resume_file` until the caller has saved the result and removes it.

    Parameters
    ----------
    rule : PredictConfig
        The decision rule for the labels that the metric scores; a tuned threshold counts as 0.5.
    fingerprint : str
        Digest of everything that the fit depends on.
    start : LinearProbe, optional
        A linear probe fitted on the encoder before fine-tuning, to start from.
    logs : Path, optional
        A folder for TensorBoard's files.
    before : callable, optional
        Called before training with the number of finished steps and the estimated remaining seconds.

    Raises
    ------
    EncoderError
        The loss is not finite before the first epoch is complete; no training row can be decoded; or the device cannot
        train in this precision.
    """
    fit = EncoderFit(
        encoder,
        samples,
        config,
        metric=metric,
        rule=rule,
        seed=seed,
        device=device,
        resume_file=resume_file,
        fingerprint=fingerprint,
        start=start,
        logs=logs,
    )
    done = fit.resume()
    if before is not None:
        before(done, fit.estimate())
    return fit.run(f"fine-tuning {encoder.architecture}")
