"""Training samples a second: mmfeat's fine-tuning against the same loop written plainly, by turns in one run.

    python benchmarks/finetune.py PROJECT image
    python benchmarks/finetune.py PROJECT text --batch-size 64

The plain loop is what a tutorial shows: a Dataset that opens each sample, a DataLoader with as many worker processes as
mmfeat has threads, the model as it comes, the loss, backward, the optimizer's step. Both have the same weights, rows, batch
size, augmentation, optimizer and precision (float32), train every layer, and keep batch norms in training mode. The last line
is mmfeat with `recipe = "best"`, which computes something else: fixed statistics, the average of the weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmfeat.common.devices import torch_device
from mmfeat.common.machine import usable_cores
from mmfeat.common.randomness import mix
from mmfeat.config.finetune_recipes import recipe_settings
from mmfeat.data.synonyms import load_synonyms, replace_two
from mmfeat.encoders.batches import groups_of
from mmfeat.encoders.finetuning.validated_epochs import EncoderFit
from mmfeat.encoders.resolve import build_encoder
from mmfeat.project.project import Project
from mmfeat.training.encoder_training import samples_of

ROUNDS = 3


class PlainSamples(Dataset):
    """One sample after the other, opened and prepared where it is asked for."""

    def __init__(self, project: Project, name: str, rows: np.ndarray) -> None:
        self.project, self.rows, self.text = project, rows, project.config.encoder[name].modality == "text"
        self.name, self.numbers = name, mix(np.arange(project.manifest.n_samples, dtype=np.uint64), 0)
        self.labels = (project.manifest.labels == 1).astype(np.float32)
        self.synonyms = load_synonyms()
        self.read = None if self.text else project.reader(name)
        if not self.text:
            from timm.data import create_transform

            encoder, _ = build_encoder(project.config, name, project.checkpoints, pretrained_only=True)
            config = encoder.preparation.data_config
            self.transform = create_transform(**config)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple:
        row = int(self.rows[i])
        if self.text:
            return replace_two(self.project.manifest.captions[row], self.synonyms, int(self.numbers[row])), self.labels[
                row
            ]
        import io

        from PIL import Image

        pixels = self.transform(Image.open(io.BytesIO(self.read(row))).convert("RGB"))
        return pixels.flip(-1) if int(self.numbers[row]) & 1 else pixels, self.labels[row]


def plain(project: Project, name: str, rows: np.ndarray, batch_size: int, workers: int) -> Callable[[], int]:
    """An epoch over some rows, written plainly; returns how many samples it trained on."""
    device = torch_device(project.config.device)
    encoder, _ = build_encoder(project.config, name, project.checkpoints, pretrained_only=True)
    network = encoder.network.to(device, memory_format=torch.contiguous_format)
    output = nn.Linear(encoder.width, len(project.manifest.classes)).to(device)
    optimizer = torch.optim.Adam([*network.parameters(), *output.parameters()], lr=5e-4)
    samples = PlainSamples(project, name, rows)

    def collate(batch: list[tuple]) -> tuple:
        inputs, labels = zip(*batch, strict=True)
        if samples.text:
            limit = encoder.preparation.max_length
            tokens = encoder.preparation.tokenizer(
                list(inputs), padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            return dict(tokens), torch.tensor(np.stack(labels))
        return torch.stack(inputs), torch.tensor(np.stack(labels))

    def epoch() -> int:
        network.train()
        n = 0
        for inputs, labels in DataLoader(samples, batch_size, shuffle=True, num_workers=workers, collate_fn=collate):
            if samples.text:
                inputs = {key: inputs[key].to(device) for key in ("input_ids", "attention_mask")}
                states, mask = network(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
                embeddings = (states * mask).sum(1) / mask.sum(1)
            else:
                embeddings = network(inputs.to(device))
            loss = nn.functional.binary_cross_entropy_with_logits(output(embeddings), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            n += len(labels)
        return n

    return epoch


def ours(project: Project, name: str, rows: np.ndarray, batch_size: int, recipe: str) -> Callable[[], int]:
    """The same epoch by mmfeat; returns how many samples it trained on."""
    encoder, _ = build_encoder(project.config, name, project.checkpoints, pretrained_only=True)
    settings = recipe_settings(recipe, project.config.encoder[name].modality)
    settings = dataclasses.replace(settings, batch_size=batch_size, precision="float32", weights="none")
    samples = dataclasses.replace(samples_of(project, name, encoder), train=rows)
    device = torch_device(project.config.device)
    fit = EncoderFit(
        encoder,
        samples,
        settings,
        metric="loss",
        rule=project.config.predict,
        seed=0,
        device=device,
        resume_file=Path(os.devnull),
        fingerprint="x",
    )

    def epoch() -> int:
        fit._train_mode()
        n = 0
        for batch in fit.batches.augmented(groups_of(rows, batch_size), 0):
            fit._step(batch)
            n += len(batch.rows)
        return n

    return epoch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("encoder")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=192, help="trained on in each turn")
    options = parser.parse_args()
    project = Project(options.project)
    rows = project.manifest.rows("train")[: options.rows]
    workers = max(2, usable_cores())
    loops = {
        "plain loop": plain(project, options.encoder, rows, options.batch_size, workers),
        "mmfeat, the same": ours(project, options.encoder, rows, options.batch_size, "paper"),
        "mmfeat, recipe best": ours(project, options.encoder, rows, options.batch_size, "best"),
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(ROUNDS + 1):
        for name, epoch in loops.items():
            start = time.perf_counter()
            n = epoch()
            if turn:  # the first warms up
                rates[name].append(n / (time.perf_counter() - start))
    base = rates["plain loop"]
    for name, found in rates.items():
        ratio = median(f / b for f, b in zip(found, base, strict=True))
        print(f"{name:<22}{median(found):8.1f} samples/s   {ratio:5.2f} times the plain loop")
    print(
        f"median of {ROUNDS} turns; {len(rows)} rows, batches of {options.batch_size}, {workers} workers, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
