"""Fine-tuning from cached layers: the same result as through the whole network, and a store that stays in order."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import run_cli
from helpers.projects import copy_project

from mmfeat.common.errors import ConfigError, EncoderError, StoreError
from mmfeat.config.finetune_recipes import FinetuneConfig
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.engines import graphs as engine_graphs
from mmfeat.encoders.engines import selection
from mmfeat.encoders.finetuning import validated_epochs
from mmfeat.encoders.front import FrontEncoder
from mmfeat.encoders.preparation import ImagePreparation, TextPreparation
from mmfeat.encoders.tail import TailEncoder
from mmfeat.extraction import writer
from mmfeat.project.encoding import encode_missing, extract
from mmfeat.project.project import Project
from mmfeat.training import cut_plan, encoder_training
from mmfeat.training.cut_plan import plan_cut
from mmfeat.training.dry_run import plan_finetune
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.status import store_status
from mmfeat.workflows.store import find_unreferenced, remove_unreferenced, verify_store

LAST = {"image": "last 2", "text": "last 1"}


def edited(project: Project, layers: dict[str, str] | None = None, store: str = "", **settings) -> Project:
    """The project with other settings in its file."""
    path = project.root / "mmfeat.toml"
    first = project.root / "first.toml"
    if not first.exists():
        shutil.copy(path, first)
    text = first.read_text(encoding="utf-8") + (f"\n[store]\n{store}\n" if store else "")
    for name, value in (LAST if layers is None else layers).items():
        given = {"layers": f'"{value}"', "lr": 0.01, **settings}
        header = f"[finetune.{name}]\n"
        table = re.search(r"(?s)(?<=" + re.escape(header) + r").*?(?=\n\[)", text)[0]
        kept = [line for line in table.splitlines() if line.split(" = ")[0] not in given]
        lines = "\n".join([*kept, *(f"{key} = {one}" for key, one in given.items())])
        text = text.replace(header + table, header + lines)
    path.write_text(text, encoding="utf-8")
    return Project(project.root)


def fronts(project: Project) -> list[Path]:
    return sorted(project.store.path.glob("front-*"))


def front_files(project: Project) -> list[Path]:
    return sorted(path for folder in fronts(project) for path in folder.rglob("part-*.h5"))


def encoded_rows(monkeypatch) -> list[int]:
    """Rows that any front encodes from here on, batch by batch."""
    seen, encode = [], Encoder.encode

    def watched(self, batch, *args):
        if isinstance(self, FrontEncoder):
            seen.append(len(next(iter(batch.values()))))
        return encode(self, batch, *args)

    monkeypatch.setattr(Encoder, "encode", watched)
    return seen


@pytest.mark.parametrize(("name", "settings"), [("image", {}), ("text", {"augment": "false"})])
def test_training_from_the_cache_equals_training_through_the_whole_network(project, name, settings):
    """With activations in float32, to rounding: the same rows, flips, dropout, rates and statistics."""
    last = {name: LAST[name]}
    settings = {"batch_norm": '"trained"', **settings}
    (cached,) = finetune(edited(project, last, 'dtype = "float32"', **settings), [name]).encoders
    assert fronts(project)
    shutil.rmtree(project.store.path)
    through = edited(project, last, 'dtype = "float32"\nfront_limit = 0', **settings)
    (whole,) = finetune(through, [name]).encoders
    assert not fronts(project)
    assert cached.checkpoint.name != whole.checkpoint.name
    histories = [[row["train_loss"] for row in one.checkpoint.record["history"]] for one in (cached, whole)]
    assert np.allclose(*histories, rtol=1e-5)
    one, other = (result.checkpoint.tensors() for result in (cached, whole))
    start = Project(project.root).built(Project(project.root).pretrained(name)).state_dict()
    assert any(not np.array_equal(one[key], start[key]) for key in one)
    for key, tensor in one.items():
        assert np.allclose(tensor, other[key], atol=2e-4), key
    frozen = plan_cut(through, name).front.cut.front_tensors()
    assert all(np.array_equal(tensors[key], start[key]) for key in frozen for tensors in (one, other))


def test_a_second_fit_computes_nothing_again(project, monkeypatch):
    seen = encoded_rows(monkeypatch)
    finetune(edited(project))
    assert sum(seen) > 100
    seen.clear()
    finetune(edited(project, epochs=1))
    assert not seen


@pytest.mark.parametrize("name", ["image", "text"])
def test_the_linear_output_to_start_from_is_fitted_on_cached_layers(project, monkeypatch, name):
    """Its embeddings are those of the whole network, up to the float16 of cached layers, and are not stored."""
    project, seen = edited(project, {name: LAST[name]}, epochs=1, head_first="true"), []
    encode = Encoder.encode

    def watched(self, batch, *args):
        if not isinstance(self, FrontEncoder | TailEncoder):
            seen.append(len(next(iter(batch.values()))))
        return encode(self, batch, *args)

    monkeypatch.setattr(Encoder, "encode", watched)
    tables, start = [], encoder_training.start_table
    monkeypatch.setattr(encoder_training, "start_table", lambda *given: tables.append(start(*given)) or tables[-1])
    finetune(project, [name])
    pretrained, labelled = project.pretrained(name), [project.manifest.rows(which) for which in ("train", "val")]
    rows = np.concatenate(labelled)
    n_val = len(project.manifest.rows("val"))
    assert (
        sum(n for n in seen if n > 2) <= n_val
    )  # those that the new checkpoint is scored on; a network is tried out on 2
    assert project.store.encoder(pretrained.spec).n_rows <= n_val
    encode_missing(project, pretrained, rows)
    whole = project.table_of({name: (pretrained.spec, None)}, rows).take(rows)
    (table,) = tables
    assert (table.present[name] == whole.present[name]).all()
    found, wanted = table.embeddings[name], np.asarray(whole.embeddings[name][slice(None)], np.float32)
    assert np.abs(found - wanted).max() < 5e-3 * np.abs(wanted).max()


def test_an_interrupted_caching_continues(project, monkeypatch):
    monkeypatch.setattr(writer, "SEGMENT_ROWS", 16)
    project, seen, encode = edited(project, {"image": "last 2"}), [], Encoder.encode

    def stopping(self, batch, *args):
        if isinstance(self, FrontEncoder):
            seen.append(len(batch["pixels"]))
            if len(seen) == 3:
                raise KeyboardInterrupt
        return encode(self, batch, *args)

    monkeypatch.setattr(Encoder, "encode", stopping)
    with pytest.raises(KeyboardInterrupt):
        finetune(project, ["image"])
    kept = sum(features.n_rows for features in Project(project.root).store.encoders() if features.spec.is_front)
    assert kept == 32
    seen.extend([0] * 10)
    before = len(seen)
    finetune(Project(project.root), ["image"])
    views = plan_cut(Project(project.root), "image").front
    assert sum(seen[before:]) == sum(views.features(view).n_rows for view in (0, 1)) - kept


@pytest.mark.parametrize("name", ["image", "text"])
def test_an_interrupted_training_ends_with_the_same_bytes(project, monkeypatch, name):
    project = edited(project)

    def tensors() -> bytes:
        (result,) = finetune(Project(project.root), [name]).encoders
        return (result.checkpoint.folder / "encoder.safetensors").read_bytes()

    straight = tensors()
    shutil.rmtree(project.checkpoints)
    keep = validated_epochs.EncoderFit._keep
    monkeypatch.setattr(validated_epochs, "KEEP_SECONDS", 0.0)

    def once(self):
        keep(self)
        monkeypatch.setattr(validated_epochs.EncoderFit, "_keep", keep)
        raise KeyboardInterrupt

    monkeypatch.setattr(validated_epochs.EncoderFit, "_keep", once)
    with pytest.raises(KeyboardInterrupt):
        tensors()
    assert tensors() == straight


@pytest.mark.parametrize("name", ["image", "text"])
def test_a_damaged_file_is_named_and_computed_again(project, monkeypatch, capsys, cache, name):
    project = edited(project)
    finetune(project, [name])
    file = max(front_files(project), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[-5] ^= 0xFF
    file.write_bytes(data)
    assert any(file.name in problem for problem in verify_store(Project(project.root)).problems)
    seen = encoded_rows(monkeypatch)
    capsys.readouterr()
    (again,) = finetune(edited(project, epochs=1), [name]).encoders
    assert re.search(rf"{file.name}: its checksum has changed.* run: mmfeat finetune", capsys.readouterr().err)
    assert 0 < sum(seen) <= 60
    assert again.made
    assert file not in find_files_in_use(project)


def find_files_in_use(project: Project) -> list[Path]:
    """Files of fronts that are not damaged."""
    return [
        features.folder / file.name
        for features in Project(project.root).store.encoders()
        if features.refresh() is None
        for file in features.series["embeddings"].current_files
    ]


def test_gc_keeps_what_a_checkpoint_or_the_settings_use(project):
    project = edited(project)
    finetune(project)
    assert len(fronts(project)) == 2 + 4

    def remove() -> list[str]:
        found = find_unreferenced(Project(project.root))
        names = [one.name for one in found.garbage]
        remove_unreferenced(Project(project.root), found)
        return names

    assert remove() == []
    shutil.rmtree(project.checkpoints)  # the settings still say what the next fine-tuning reads
    assert all(not name.startswith("front-") for name in remove())
    finetune(Project(project.root))
    edited(project, {"image": "all", "text": "all"})
    assert remove() == []  # the checkpoints were trained from them
    shutil.rmtree(project.checkpoints)
    assert sum(name.startswith("front-") for name in remove()) == 6
    assert not fronts(project)


def test_status_shows_the_size_and_the_users_of_cached_layers(project):
    project = edited(project)
    finetune(project)
    lines = {line.stored.name: line for line in store_status(Project(project.root))}
    shown = [lines[folder.name] for folder in fronts(project)]
    assert len(shown) == 6
    assert all(line.stored.n_bytes > 10_000 for line in shown)
    assert {name for line in shown for name in line.used_by} == {"encoder image", "encoder text", "image-1", "text-1"}
    out = run_cli("status", "--store", cwd=project.root).stdout
    assert "front-test_efficientnet-" in out
    assert "nothing; to remove it" not in out


def test_a_dry_run_says_the_megabytes_and_writes_nothing(project):
    edited(project)
    plans = plan_finetune(Project(project.root, dry=True))
    assert not project.store.path.exists()
    assert all("MB of cached layers" in plan.what for plan in plans)
    finetune(Project(project.root))
    for plan, name in zip(plans, ("test_efficientnet", "bert"), strict=True):
        written = sum(path.stat().st_size for path in front_files(project) if f"front-{name}" in str(path))
        assert 0.4 * written < 1e6 * plan.store_mb < 1.5 * written
        assert plan.seconds > 0
    assert plan_cut(Project(project.root), "image").missing_mb == 0


def test_without_room_layers_are_trained_through_the_whole_network(project, capsys):
    (result,) = finetune(edited(project, store="front_limit = 0.01"), ["image"]).encoders
    said = capsys.readouterr().err
    assert "image: the last 2 of 5 stages are trained through the whole network: cached layers are off" in said
    assert not fronts(project)
    assert result.checkpoint.front == {"trained": 2, "keys": []}


def test_a_full_disk_is_refused_before_the_work(project, monkeypatch):
    monkeypatch.setattr(cut_plan, "_free_mb", lambda folder: 0.001)
    with pytest.raises(StoreError, match=r"cached layers of image take .* MB.*layers = \"auto\""):
        finetune(edited(project), ["image"])
    assert not fronts(project)


@pytest.mark.parametrize(("key", "value"), [("crop", 0.5), ("randaugment", 3), ("start_size", 32)])
def test_augmentations_of_pixels_are_refused_in_one_line(project, key, value, capsys):
    with pytest.raises(ConfigError) as refused:
        edited(project, {"image": "last 2"}, **{key: value})
    message = str(refused.value)
    assert re.match(rf"mmfeat.toml:\d+: finetune.image.{key} = {value} needs pixels", message)
    assert "\n" not in message
    (result,) = finetune(edited(project, {"image": "auto"}, **{key: value}), ["image"]).encoders
    assert f"image: all layers are trained: {key} needs pixels" in capsys.readouterr().err
    assert result.checkpoint.front["trained"] == 0
    assert not fronts(project)
    edited(project, {"image": "last 2"}, "front_limit = 0", **{key: value})  # nothing is cached, so it is possible


@pytest.mark.parametrize(
    ("layers", "more", "message"),
    [
        ("last 0", {}, r'finetune.image.layers = "last 0". Use "all", "auto", or "last N"'),
        ("first 2", {}, r'finetune.image.layers = "first 2". Use'),
        ("last 2", {"frozen_layers": 3}, r'finetune.image.frozen_layers = 3, but layers = "last 2" is set too'),
    ],
)
def test_wrong_layers_are_refused_in_one_line(project, layers, more, message):
    with pytest.raises(ConfigError, match=message):
        edited(project, {"image": layers}, **more)


def test_too_many_stages_are_refused_with_the_encoders_name(project):
    with pytest.raises(EncoderError, match=r'encoder.text: .* layers = "last 9", but it has 2 blocks'):
        finetune(edited(project, {"text": "last 9"}), ["text"])


def test_auto_takes_what_fits_and_says_so(project, monkeypatch, capsys):
    project = edited(project, {"image": "auto"})
    plan = plan_cut(project, "image")
    assert plan.trained == 2
    assert re.match(r"the last 2 stages of 5 are trained, from \d+ MB of cached layers", plan.about)
    given = plan_cut(edited(project, {"image": "last 2"}), "image")
    settings = project.config.finetune_of("image")
    assert plan.settings(settings) == given.settings(Project(project.root).config.finetune_of("image"))
    none = plan_cut(edited(project, {"image": "auto"}, "front_limit = 0.001"), "image")
    assert none.trained == 0
    assert none.about.startswith("all layers are trained: cached layers would take")
    monkeypatch.setattr(cut_plan, "_free_mb", lambda folder: 0.0)
    assert plan_cut(edited(project, {"image": "auto"}), "image").trained == 0


def test_files_without_layers_keep_their_fingerprints():
    """What 0.1 and 0.2 wrote is digested with exactly these keys."""
    keys = [
        *("epochs", "patience", "batch_size", "accumulate", "optimizer", "lr", "layer_decay", "frozen_layers"),
        *(
            "weight_decay",
            "warm_up",
            "schedule",
            "clip",
            "ema",
            "precision",
            "batch_norm",
            "head_first",
            "loss",
            "weights",
        ),
        *("smoothing", "augment", "crop", "randaugment", "start_size"),
    ]
    assert list(FinetuneConfig().of_training()) == keys
    assert cut_plan.CutPlan().settings(FinetuneConfig(frozen_layers=3))["frozen_layers"] == 3


@pytest.mark.parametrize("name", ["image", "text"])
@pytest.mark.parametrize(("dtype", "tokens"), [("float16", 0), ("float32", 0), ("float32", 2)])
def test_extraction_runs_the_tail_alone_where_activations_are_exact(project, monkeypatch, name, dtype, tokens):
    path = project.root / "mmfeat.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f"[encoder.{name}]\n", f"[encoder.{name}]\ntokens = {tokens}\n"), encoding="utf-8")
    project = edited(project, store=f'dtype = "{dtype}"')
    finetune(project, [name])
    project = Project(project.root)
    identity, train = project.identity(name), project.manifest.rows("train")
    prepare = {"image": ImagePreparation, "text": TextPreparation}[name]
    prepared = []

    def watched(self, sample, original=prepare.prepare):
        prepared.append(sample)
        return original(self, sample)

    monkeypatch.setattr(prepare, "prepare", watched)
    result = encode_missing(project, identity, train)
    assert (len(prepared) > 4) == (
        dtype == "float16"
    )  # two captions are prepared when a network is built, and when it is cut
    assert result.encoded > 30
    assert result.encoded + result.repeated + result.cached == len(train)
    keys = project.keys_of(identity).keys[train]

    def stored(project: Project) -> list[np.ndarray]:
        features = project.store.encoder(identity.spec)
        values = [features.embeddings(features.lookup(keys))[:]]
        values += features.tokens(tokens, features.lookup_tokens(tokens, keys)) if tokens else []
        return [np.asarray(one[:], np.float32) for one in values]

    by_tail, features = stored(project), project.store.encoder(identity.spec)
    shutil.rmtree(features.folder)
    for folder in fronts(project):
        shutil.rmtree(folder)
    whole = Project(project.root)
    encode_missing(whole, identity, train)
    for one, again in zip(by_tail, stored(whole), strict=True):
        assert np.allclose(one, again, atol=1e-4 * np.abs(again).max())
    extract(whole, [name])


def test_an_encoder_that_averages_mirror_images_does_so_from_the_cache(project):
    path = project.root / "mmfeat.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("size = 32\n", "size = 32\nflip = true\n"), encoding="utf-8")
    project = edited(project, {"image": "last 2"}, 'dtype = "float32"')
    (cached,) = finetune(project, ["image"]).encoders
    identity = Project(project.root).identity("image")
    rows = project.manifest.rows("val")
    assert encode_missing(Project(project.root), identity, rows).cached == len(rows)
    (through,) = finetune(
        edited(project, {"image": "last 2"}, 'dtype = "float32"\nfront_limit = 0'), ["image"]
    ).encoders
    losses = [[row["val_loss"] for row in one.checkpoint.record["history"]] for one in (cached, through)]
    assert np.allclose(*losses, rtol=1e-4)


def test_captions_fronts_use_the_selected_engine(project, monkeypatch, tmp_path):
    """One graph for all lengths; its states are compared with those of torch before use."""
    pytest.importorskip("onnxruntime")
    for module in (engine_graphs, selection):
        monkeypatch.setattr(module, "user_cache_path", lambda name: tmp_path / "cache" / name)
    path = project.root / "mmfeat.toml"
    torch_text = path.read_text(encoding="utf-8")
    path.write_text(torch_text.replace('engine = "torch"', 'engine = "onnxruntime"'), encoding="utf-8")
    graphs, compared = [], []
    export, compare = engine_graphs.write_encoder_graph, selection.disagreement
    monkeypatch.setattr(engine_graphs, "write_encoder_graph", lambda *a, **k: graphs.append(1) or export(*a, **k))
    monkeypatch.setattr(selection, "disagreement", lambda *a, **k: compared.append(a[0].shape) or compare(*a, **k))
    rows = {which: project.manifest.rows(which) for which in ("train", "val")}

    def states() -> list[np.ndarray]:
        project = edited(Project(path.parent), {"text": "last 1"}, 'dtype = "float32"')
        front = plan_cut(project, "text").front
        front.cache(**rows)
        for origin in front.features(0).origins():
            assert ("onnxruntime" in origin["engine"]) == ("onnxruntime" in origin["versions"]) == bool(graphs)
        return [front.reader().load(int(row), None).values["activations"] for row in rows["train"]]

    by_graph = states()
    assert len(graphs) == 1
    assert compared[0][0] > len(project.manifest.captions)  # tokens
    for folder in fronts(project):
        shutil.rmtree(folder)
    graphs.clear()
    path.write_text(torch_text, encoding="utf-8")
    (project.root / "first.toml").unlink()
    for one, other in zip(by_graph, states(), strict=True):
        assert np.allclose(one, other, atol=1e-4 * np.abs(other).max())


def test_captions_are_stored_by_length_in_a_few_variants(project):
    project = edited(project, {"text": "last 1"})
    finetune(project, ["text"])
    front = plan_cut(Project(project.root), "text").front
    assert [one.view.name for one in front.fronts] == ["original", "synonyms-1", "synonyms-2", "synonyms-3"]
    reader, rows = front.reader(), project.manifest.rows("train")
    good = [row for row in rows.tolist() if reader.good[row]]
    assert len(good) == len(rows)
    encoder = front.cut.encoder
    for row in good[:5]:
        states = reader.load(row, None).values["activations"]
        tokens = encoder.collate([encoder.prepare(project.manifest.captions[row])])["input_ids"]
        assert states.shape == (tokens.shape[1], encoder.width)


def test_a_copy_of_the_project_finds_the_rows_again(project, tmp_path, monkeypatch):
    """Rows are filed by their bytes: nothing is computed again for pictures that were moved or renamed."""
    finetune(edited(project, {"image": "last 2"}), ["image"])
    copy = Project(copy_project(project.root, tmp_path / "copy"))
    assert plan_cut(copy, "image").missing_mb == 0


def test_self_training_rounds_fine_tune_from_cached_layers(project, monkeypatch):
    from mmfeat.workflows.selftrain import about_cost, plan_selftrain, selftrain

    project = edited(project, {"image": "last 2"})
    finetune(project)
    extract(Project(project.root))
    often = {"selftrain.rounds": 3, "selftrain.encoder_every": 1}
    cost = plan_selftrain(Project(project.root, often)).cost()
    before = sum(path.stat().st_size for path in front_files(project) if "front-test_efficientnet" in str(path))
    assert re.search(r"MB each\. Cached layers: once, about .* and [0-9.]+ MB\.$", about_cost(cost))
    assert cost.all_seconds == pytest.approx(2 * cost.seconds + cost.front_seconds)
    seen = encoded_rows(monkeypatch)
    monkeypatch.setattr("mmfeat.selftraining.rounds.is_accepted", lambda difference, first: True)
    selftrain(Project(project.root, often))
    after = sum(path.stat().st_size for path in front_files(project) if "front-test_efficientnet" in str(path))
    assert 0.5 * (after - before) < 1e6 * cost.front_mb < 1.5 * (after - before)
    train = project.manifest.rows("train")
    once = 2 * (project.manifest.n_samples - len(project.manifest.rows("val")) - len(train))
    assert 0 < sum(seen) <= once  # the front of the unlabelled rows once, not once a round


def test_the_result_says_so_by_the_command_line(project):
    edited(project, {"image": "last 2"})
    done = run_cli("finetune", "image", cwd=project.root)
    assert done.returncode == 0, done.stderr
    assert "layers to cache (mirrored)" not in done.stdout
    record = dataclasses.asdict(FinetuneConfig())
    assert record["layers"] == "all"


def test_a_linear_probe_reads_nothing_of_layers(project):
    (result,) = finetune(edited(project, {"text": "last 9"}), ["text"], freeze=True).encoders
    assert result.checkpoint.frozen
    assert not fronts(project)
