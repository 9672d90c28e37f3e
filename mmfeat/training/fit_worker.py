"""The process of one device of `mmfeat finetune --devices`: trains with its part of each batch.

It is started by :mod:`mmfeat.training.device_training`. The first process reports to the command, for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmfeat.common.errors import DataError, EncoderError
from mmfeat.common.machine import bind_to
from mmfeat.common.progress import quiet, relayed_by
from mmfeat.common.workers import Reports


def main() -> None:
    """Train what the request on stdin names."""
    reports = Reports()
    with reports.ending():
        bind_to(reports.request["cores"])
        with relayed_by(reports), quiet(reports.request["part"][0] > 0):
            _train(reports.request, reports)


def _train(request: dict[str, Any], reports: Reports) -> None:
    from mmfeat.common.devices import torch_device
    from mmfeat.encoders.finetuning.processes import joined
    from mmfeat.encoders.finetuning.validated_epochs import EncoderFit
    from mmfeat.encoders.resolve import build_encoder
    from mmfeat.project.project import Project
    from mmfeat.training.cut_training import from_cache, trained_part
    from mmfeat.training.encoder_training import fit_arguments, logs_of, named, samples_of
    from mmfeat.training.finetune_plan import fit_plan

    project, name = Project(request["root"], request["overrides"]), request["name"]
    config, plan = project.config, fit_plan(project, name, freeze=False)
    if plan.fingerprint != request["fingerprint"]:
        raise DataError("settings or samples have changed since the command began. Type it again")
    encoder, _ = build_encoder(config, name, project.checkpoints, pretrained_only=True)
    samples = from_cache(plan, samples_of(project, name, encoder))
    meeting, device = Path(request["meeting"]), torch_device(config.device)
    with named(name), joined(meeting, *request["part"], device=device) as processes:
        fit = EncoderFit(
            trained_part(plan, encoder),
            samples,
            config.finetune_of(name),
            **fit_arguments(project, plan),
            logs=logs_of(project, plan) if processes.first else None,
            processes=processes,
        )
        fit.resume()
        if not fit.resumed:
            raise EncoderError(f"{fit.resume_file}: cannot be read by all processes. Type the command again")
        seconds = fit.estimate()
        if processes.first:
            reports.send(seconds=seconds)
        stopped = fit.train(encoder.architecture)
        if processes.first:
            reports.send(stopped=stopped)


if __name__ == "__main__":
    main()
