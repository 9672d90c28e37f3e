"""How well `mmfeat audit` finds planted near-duplicates, and how its search of neighbours scales; `benchmarks/README.md` has the figures.

    python benchmarks/duplicates.py --project .           # 500 altered copies among all pictures of a project
    python benchmarks/duplicates.py --project . --rows 2000
    python benchmarks/duplicates.py --scale               # 1,000,000 x 256 embeddings

Copies are re-encoded at quality 30 to 90, resized to 30 to 150 %, cropped by 10 %, mirrored, stored turned with the
orientation that turns them back (as cameras do), or turned without it. They are encoded as new pictures would be. A copy is found
if it is in one cluster with its original. Precision is the share of right pairs among all pairs of a copy and another row of
its cluster; a row that is a near-duplicate of the original without any copy counts as right. Only cached embeddings and
thumbnails of the originals are read (missing thumbnails are made). Prints a table and writes results/duplicates.json.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps
from results_folder import device_name, write_results

from mmfeat.audit.checks import AuditInput, Embeddings
from mmfeat.audit.copy_search import Copies, picture_copies
from mmfeat.audit.neighbours import neighbours
from mmfeat.common.files import digest_bytes
from mmfeat.config.schema import MODALITIES
from mmfeat.encoders.decoding import Decoding
from mmfeat.encoders.image_decoding import decode_image
from mmfeat.extraction.sample_copies import embeddings_of
from mmfeat.extraction.thumbnail_making import thumbnail_of
from mmfeat.project.duplicate_thresholds import DuplicateThresholds
from mmfeat.project.encoding import ExtractionOptions, open_session
from mmfeat.project.project import Project
from mmfeat.project.thumbnails import picture_statistics
from mmfeat.store.thumbnail_store import PictureStatistics

ORIENTATION, TURN_RIGHT = 0x0112, 6


def file_of(image: Image.Image, quality: int = 85, **more) -> bytes:
    """An image as a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, **more)
    return file.getvalue()


def resized(image: Image.Image, rng: random.Random) -> bytes:
    """Scaled to 30 to 150 %."""
    scale = rng.uniform(0.3, 1.5)
    return file_of(image.resize((max(1, round(scale * image.width)), max(1, round(scale * image.height)))))


def cropped(image: Image.Image, rng: random.Random) -> bytes:
    """90 % of the width and of the height, anywhere."""
    width, height = round(0.9 * image.width), round(0.9 * image.height)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return file_of(image.crop((left, top, left + width, top + height)))


def with_orientation(image: Image.Image, rng: random.Random) -> bytes:
    """Pixels turned left, and an orientation that turns them right."""
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_RIGHT
    return file_of(image.transpose(Image.Transpose.ROTATE_90), rng.randint(60, 95), exif=exif)


ALTERED: dict[str, Callable[[Image.Image, random.Random], bytes]] = {
    "re-encoded": lambda image, rng: file_of(image, rng.randint(30, 90)),
    "resized": resized,
    "cropped": cropped,
    "mirrored": lambda image, rng: file_of(ImageOps.mirror(image)),
    "EXIF orientation": with_orientation,
    "turned": lambda image, rng: file_of(
        image.transpose(rng.choice([Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270]))
    ),
}


def planted(project: Project, rows: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, list[str], list[bytes]]:
    """The originals (positions in `rows`), kinds and files of the copies."""
    rng, read, decoding = random.Random(seed), project.samples.image_reader(), Decoding.of(project.config)
    originals = np.array(rng.sample(range(len(rows)), n))
    kinds = [list(ALTERED)[i % len(ALTERED)] for i in range(n)]
    images = (decode_image(read(int(rows[at])), decoding) for at in originals)
    return originals, kinds, [ALTERED[kind](image, rng) for kind, image in zip(kinds, images, strict=True)]


def statistics_of(files: list[bytes], decoding: Decoding) -> PictureStatistics:
    """Miniatures of the copies."""
    found = PictureStatistics.none(len(files))
    found.known[:] = True
    for at, file in enumerate(files):
        found.miniature[at] = thumbnail_of(file, decoding).miniature
    return found


def audit_input(project: Project, rows: np.ndarray, names: list[str], files: list[bytes]) -> AuditInput:
    """What the check reads: some rows of the project, then the copies."""
    n = len(rows) + len(files)
    table = project.feature_table(names, rows)
    embeddings = {}
    for name in names:
        session = open_session(project, project.identity(name), project.reader(name), ExtractionOptions())
        both = [np.asarray(table.embeddings[name][rows], np.float32)]
        both += [embeddings_of(session, files, name)] if files else []
        present = np.concatenate([table.present[name][rows], np.ones(len(files), bool)])
        embeddings[name] = Embeddings(modality="image", values=np.concatenate(both), present=present)
    copies = statistics_of(files, Decoding.of(project.config))
    originals = picture_statistics(project, rows)
    pictures = PictureStatistics.none(n)
    for name in ("known", "miniature"):
        getattr(pictures, name)[:] = np.concatenate([getattr(one, name)[:] for one in (originals, copies)])
    keys = [project.kept_keys("image").keys[rows], np.zeros((0, 32), np.uint8)]
    keys += [np.frombuffer(bytes.fromhex(digest_bytes(file)), np.uint8)[None] for file in files]
    ids = [*project.manifest.ids[rows], *(f"copy {i}" for i in range(len(files)))]
    return AuditInput(
        ids=np.array(ids, object),
        labels=np.zeros((n, 1), np.int8),
        split=np.full(n, "train", object),
        classes=("any",),
        embeddings=embeddings,
        keys={"image": np.concatenate(keys)},
        has={"image": np.ones(n, bool)},
        pictures=pictures,
        thresholds=DuplicateThresholds(project).of(names, []),
    )


def precision(found: Copies, alone: Copies, originals: np.ndarray, n_rows: int) -> tuple[float, int]:
    """The share of right pairs of a copy and another row of its cluster, and their number."""
    right = wrong = 0
    for rows in found.clusters():
        for copy in rows[rows >= n_rows].tolist():
            original = originals[copy - n_rows]
            for other in rows[rows != copy].tolist():
                source = originals[other - n_rows] if other >= n_rows else other
                near = source == original or alone.cluster[source] == alone.cluster[original] >= 0
                right, wrong = right + near, wrong + (not near)
    return right / max(1, right + wrong), right + wrong


def measure(project: Project, n_rows: int, n_copies: int, seed: int) -> None:
    """Plant copies and look for them."""
    names = [name for name, table in project.config.encoder.items() if table.modality == MODALITIES[0]]
    keys = project.kept_keys("image")
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(keys.present))[:n_rows]
    originals, kinds, files = planted(project, rows, n_copies, seed)
    alone = picture_copies(audit_input(project, rows, names, []))
    given = audit_input(project, rows, names, files)
    start = time.perf_counter()
    found = picture_copies(given)
    seconds = time.perf_counter() - start
    hit = found.cluster[originals] == found.cluster[len(rows) + np.arange(n_copies)]
    hit &= found.cluster[originals] >= 0
    by_kind = {kind: float(hit[np.array(kinds) == kind].mean()) for kind in ALTERED}
    share, n_pairs = precision(found, alone, originals, len(rows))
    print(f"{len(rows):,} pictures, {n_copies} copies, encoders {', '.join(names)}, thresholds {given.thresholds}")
    print("recall      " + "  ".join(f"{kind} {value:.3f}" for kind, value in by_kind.items()))
    print(f"all         recall {hit.mean():.4f}, precision {share:.4f} of {n_pairs:,} pairs; {seconds:.1f} s")
    print(f"without copies: {len(alone.clusters()):,} clusters of near-duplicates")
    for cluster in alone.clusters()[:20]:
        print("   ", ", ".join(f"{given.ids[row]} ({alone.similarity[row]:.2f})" for row in cluster[:6]))
    write_results(
        "duplicates",
        {
            "device": device_name(),
            "rows": len(rows),
            "copies": n_copies,
            "encoders": names,
            "thresholds": dict(given.thresholds),
            "recall": float(hit.mean()),
            "recall_by_kind": by_kind,
            "precision": share,
            "pairs": n_pairs,
            "seconds": seconds,
            "clusters_without_copies": len(alone.clusters()),
        },
    )


def scale(n: int, width: int, seed: int) -> None:
    """The neighbours of many embeddings: clusters of rows around many centres, and 1,000 near-duplicates."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(2000, width)).astype(np.float32)
    points = np.empty((n, width), np.float16)
    for at in range(0, n, 1 << 16):
        block = slice(at, min(n, at + (1 << 16)))
        size = block.stop - block.start
        noise = rng.normal(size=(size, width)).astype(np.float32)
        points[block] = centres[rng.integers(0, len(centres), size)] + 1.5 * noise
    some = rng.choice(n, (2, 1000), replace=False)
    points[some[1]] = points[some[0]] + 0.2 * rng.normal(size=(1000, width)).astype(np.float16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = neighbours(points, 10)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    near = float((found.rows[some[0]] == some[1][:, None]).any(1).mean())
    print(f"{n:,} x {width}: 10 neighbours of each row in {seconds:.0f} s, recall {found.recall:.3f} on a sample")
    print(f"near-duplicates found {near:.3f}; memory {before / 1e6:.1f} GB before, {peak / 1e6:.1f} GB at most")
    result = {"device": device_name(), "rows": n, "width": width, "seconds": seconds, "recall": found.recall}
    write_results("duplicates-scale", result | {"planted_recall": near, "gb": peak / 1e6, "gb_before": before / 1e6})


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default=".")
    parser.add_argument("--rows", type=int, default=24_000)
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.scale:
        scale(args.points, args.width, args.seed)
    else:
        measure(Project(args.project), args.rows, args.copies, args.seed)


if __name__ == "__main__":
    main()
