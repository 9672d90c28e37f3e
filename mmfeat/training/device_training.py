"""Fine-tunes an encoder on several devices, in a process for each: every process computes its part of every batch.

The processes continue from the saved state of the fine-tuning, and the first of them saves it. The command, which prepares what
they read, then takes the result from the last saved state.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from mmfeat.common.errors import EncoderError
from mmfeat.common.progress import progress, say
from mmfeat.common.workers import Worker, WorkerFailed, running
from mmfeat.encoders.finetuning.optimisation import has_statistics
from mmfeat.encoders.finetuning.validated_epochs import EncoderFit, FittedEncoder
from mmfeat.extraction.device_shares import DeviceShare
from mmfeat.project.project import Project
from mmfeat.training.finetune_plan import FitPlan
from mmfeat.training.fit_announcement import announce

_WORKER = "mmfeat.training.fit_worker"
_GRACE = 10.0  # seconds to save a state in; a process that waits for another cannot be interrupted
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def check_batches(project: Project, name: str, shares: Sequence[DeviceShare]) -> None:
    """Refuse to divide the batches of an encoder whose batch norms are trained on them.

    Raises
    ------
    EncoderError
        There are several devices, and the encoder has such batch norms.
    """
    if len(shares) < 2 or project.config.finetune_of(name).batch_norm != "trained":
        return
    if project.config.encoder[name].tunable and has_statistics(project.built(project.pretrained(name))):
        raise EncoderError(
            'batch_norm = "trained" needs whole batches, which --devices divides. '
            'Use one device, or set [finetune.NAME] batch_norm = "frozen"'
        )


def fit_on_devices(fit: EncoderFit, project: Project, plan: FitPlan, shares: Sequence[DeviceShare]) -> FittedEncoder:
    """Fine-tune an encoder in a process for each device, or continue to; as :func:`mmfeat.encoders.finetuning.fit_encoder`.

    Raises
    ------
    EncoderError
        As for one process.
    WorkerFailed
        A process ended without a message. The others were stopped, and the last saved state is kept.
    """
    done, stopped = fit.begin(), ""
    if fit.ended:
        return fit.result()
    project.samples.kept_bytes.clear()  # other processes read the samples
    if fit.device.type == "cuda":
        torch.cuda.empty_cache()  # the first process uses this GPU too
    description = f"fine-tuning {fit.encoder.architecture} on {len(shares)} devices"
    try:
        with tempfile.TemporaryDirectory(prefix="mmfeat-") as folder:
            workers = _workers(project, plan, shares, Path(folder) / "meeting")
            with (
                running(_WORKER, workers, grace=_GRACE) as reports,
                progress(description, fit.samples_left, "samples") as bar,
            ):
                for report in reports:
                    if "advance" in report:
                        bar.advance(report["advance"], report["note"])
                    elif "say" in report:
                        say(report["say"])
                    elif "seconds" in report:
                        announce(project, plan.name, done, report["seconds"], n_devices=len(shares))
                    else:
                        stopped = report["stopped"]
    except WorkerFailed as error:
        raise WorkerFailed(f"{error}. To continue from the last saved state, type the command again") from None
    fit.resume()
    return fit.result(stopped)


def _workers(project: Project, plan: FitPlan, shares: Sequence[DeviceShare], meeting: Path) -> list[Worker]:
    return [
        Worker(
            name=f"process {number + 1} of {len(shares)} ({share.device})",
            request={
                "root": str(project.root),
                "overrides": {**project.overrides, "device": share.device},
                "name": plan.name,
                "fingerprint": plan.fingerprint,
                "part": (number, len(shares)),
                "meeting": str(meeting),
                "cores": share.cores,
            },
            environment={**share.environment, "GLOO_SOCKET_IFNAME": _LOOPBACK},
        )
        for number, share in enumerate(shares)
    ]
