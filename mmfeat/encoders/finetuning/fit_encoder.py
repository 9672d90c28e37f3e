"""Fine-tuning one encoder with a linear output on its modality (paper, section 3.1; P4 to P8).

Randomness is a function of (seed, epoch or step, id) and the state is saved every few minutes, so that an interrupted and
resumed fine-tuning equals an undisturbed one.
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
    """Fine-tune an encoder; an interrupted fit with the same fingerprint goes on.

    The encoder then holds the weights of its best epoch on val, or of the last one if no val row can be decoded. The state
    stays in `resume_file` until the caller has saved the result and removes it.

    Parameters
    ----------
    rule : PredictConfig
        How probabilities become the labels that the metric scores, at 0.5 where it is tuned.
    fingerprint : str
        Digest of all that the fit depends on.
    start : LinearProbe, optional
        A linear output fitted on the encoder as it is, to start from.
    logs : Path, optional
        A folder for TensorBoard's files.
    before : callable, optional
        Called with the number of steps that are done and the estimated seconds of the rest.

    Raises
    ------
    EncoderError
        The loss is not finite before the first epoch is whole; no training row can be decoded; the device cannot train in
        this precision.
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
