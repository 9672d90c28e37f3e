"""Encoder kinds and heads of other packages: a third modality from extraction to prediction, by one module and an entry point."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from mmfeat.common import plugins
from mmfeat.common.errors import ConfigError, EncoderError
from mmfeat.common.plugins import Registry
from mmfeat.config.encoder_tables import MODALITY_TABLES, encoder_table_class
from mmfeat.config.reader import load_config
from mmfeat.encoders.kinds import encoder_kind, encoder_kinds, kind_of_record, modality_kind

PACKAGE = ROOT / "tests" / "plugin_package"
SOUND = """
[encoder.sound]
folder = "sounds"
seconds = 0.25
[fuse.products]
epochs = 3
width = 16
"""
# One process types all commands: torch is imported once.
SESSION = """
import json, sys
from pathlib import Path
import numpy as np
from mmfeat.cli import main
from mmfeat.report import plots

plots._save = lambda *_: None  # rendering is not what is tested

def typed(*words):
    sys.argv = ["mmfeat", *words]
    print("$", " ".join(words), flush=True)
    try:
        main()
    except SystemExit as end:
        assert not end.code, (words, end.code)

typed("extract")
typed("extract")
typed("finetune", "--freeze")
typed("extract")
typed("status")
three = ("--inputs", "image,text,sound")
for head in ("concat", "crossattn", "products"):
    typed("fuse", "--head", head, *three)
for head in ("crossattn", "products"):
    typed("export", f"{head}-1", f"exported-{head}")
typed("runs")
typed("predict", "crossattn-1", "new.csv", "--out", "by-project.parquet")

from mmfeat.predictor import Predictor
import pyarrow.parquet as pq
from mmfeat.project.project import Project

predictor = Predictor.load("exported-crossattn")
ids = ["n1", "n2", "n3"]
waves = [np.load(f"sounds/{one}.npy") if Path(f"sounds/{one}.npy").is_file() else None for one in ids]
found = predictor.predict([None] * 3, ["a disc and a box", "a ring", None], others={"sound": waves})
alone = predictor.predict(others={"sound": waves[:2]})
wrong = ""
try:
    predictor.predict(None, ["a ring"], others={"sound": [np.zeros((2, 2))]})
except Exception as error:
    wrong = f"{type(error).__name__}: {error}"
kept = Project(".").kept_keys("sound").present
Path("found.json").write_text(json.dumps({
    "kept": int(kept.sum()),
    "probs": found.probs.tolist(), "known": found.known.tolist(), "opinions": [sorted(one.opinions) for one in found],
    "alone": [sorted(one.opinions) for one in alone], "wrong": wrong,
}))
"""


def installed(folder: Path, entry_points: dict[str, dict[str, str]] | None = None) -> dict[str, str]:
    """An environment in which the package is installed: its modules, and the metadata that pip would write."""
    stated = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    metadata = folder / "mmfeat_sound-1.0.dist-info"
    metadata.mkdir(parents=True)
    for module in PACKAGE.glob("*.py"):
        shutil.copy(module, folder)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {stated['name']}\nVersion: {stated['version']}\n")
    groups = stated["entry-points"] if entry_points is None else entry_points
    lines = [
        line for group, points in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}


@pytest.fixture(scope="module")
def session(tmp_path_factory, small_source):
    """A project of images, captions and recordings, after all commands; what they printed."""
    from helpers.projects import TINY

    from mmfeat.project.initialisation import init

    folder = tmp_path_factory.mktemp("sound")
    text = json.dumps(str(small_source / "text-encoder"))
    (folder / "mmfeat.toml").write_text(TINY.format(source=json.dumps(str(small_source)), text=text), encoding="utf-8")
    init(folder)
    with (folder / "mmfeat.toml").open("a", encoding="utf-8") as file:
        file.write(SOUND)
    ids = _ids(folder)
    (folder / "sounds").mkdir()
    rng = np.random.default_rng(0)
    for one in [*ids[:-5], "n1", "n2"]:  # some rows have no recording
        np.save(folder / "sounds" / f"{one}.npy", rng.standard_normal(4000).astype(np.float32))
    (folder / "new.csv").write_text("id,caption\nn1,a disc and a box\nn2,a ring\nn3,\n")
    environment = installed(folder / "site-packages")
    done = subprocess.run(
        [sys.executable, "-c", SESSION], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return folder, done.stdout, len(ids)


def _ids(folder: Path) -> list[str]:
    from mmfeat.data.manifest import Manifest

    return [str(one) for one in Manifest.load(folder / "manifest.parquet").ids]


def test_a_third_modality_is_extracted_fused_exported_and_predicted(session):
    folder, printed, n = session
    assert "sound" in printed
    status = printed.partition("$ status")[2].partition("$ ")[0]
    line = next(line for line in status.splitlines() if line.startswith("sound"))
    assert line.split()[2:7] == [str(n - 5), "0", "0", "0", "5"]  # cached, missing, stale, unreadable, absent
    assert "sound: checkpoint sound-1" in status
    for head in ("concat", "crossattn", "products"):
        record = json.loads((folder / "runs" / f"{head}-1" / "run.json").read_text())
        assert record["head"] == head
        assert list(record["encoders"]) == ["image", "text", "sound"]
    record = json.loads((folder / "exported-crossattn" / "mmfeat.json").read_text())
    assert record["encoders"]["sound"]["kind"] == "sound"
    assert "kind" not in record["encoders"]["image"]
    assert (folder / "exported-products" / "mmfeat.json").is_file()


def test_the_project_and_the_exported_model_predict_new_samples_alike(session):
    import pyarrow.parquet as pq

    folder, _, _ = session
    found = json.loads((folder / "found.json").read_text())
    table = pq.read_table(folder / "by-project.parquet").to_pydict()
    by_project = np.array(
        [values for name, values in table.items() if name.startswith("p_") or name in _classes(folder)]
    )
    np.testing.assert_allclose(np.array(found["probs"]).T, by_project, atol=2e-3)
    assert found["known"] == [True, True, False]
    assert found["opinions"] == [["sound", "text"], ["sound", "text"], []]
    assert found["alone"] == [["sound"], ["sound"]]
    assert found["wrong"] == (
        "DataError: recording 0: ValueError: not an array of one dimension. To predict from the other modalities: on_error='record'"
    )


def _classes(folder: Path) -> tuple[str, ...]:
    from mmfeat.data.manifest import Manifest

    return Manifest.load(folder / "manifest.parquet").classes


def test_runs_record_the_keys_of_its_samples(session):
    folder, _, n = session
    assert json.loads((folder / "found.json").read_text())["kept"] == n - 5


def test_a_second_extraction_finds_everything_cached(session):
    _, printed, _ = session
    second = printed.split("$ extract")[2].partition("$ ")[0]
    assert second.count("nothing to encode") == 3


def test_a_new_kind_touches_its_own_module_and_its_entry_point():
    named = [
        path
        for path in (*ROOT.glob("mmfeat/**/*.py"), *ROOT.glob("cli/*.py"))
        if "sound" in path.read_text("utf-8").split()
    ]
    assert not named
    brought = (
        [path.name for path in PACKAGE.iterdir() if "sound" in path.read_text("utf-8")] if PACKAGE.is_dir() else []
    )
    assert sorted(brought) == ["mmfeat_sound.py", "pyproject.toml"]


def test_a_package_that_cannot_be_imported_is_one_warning_line(tmp_path):
    environment = installed(tmp_path / "site", {"mmfeat.encoders": {"broken": "mmfeat_no_such_module"}})
    code = "from mmfeat.encoders.kinds import encoder_kinds; print(list(encoder_kinds()))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(["image", "tfidf", "text", "imported"])
    (warning,) = done.stderr.splitlines()
    for word in ("Warning", "broken", "mmfeat-sound 1.0", "ModuleNotFoundError", "uninstall"):
        assert word in warning


def test_packages_are_imported_only_for_a_name_that_is_not_known(monkeypatch):
    asked = []
    monkeypatch.setattr(plugins, "load_plugins", asked.append)
    registry = Registry("thing", "mmfeat.things")
    registry.register("own", 1)
    assert registry["own"] == 1
    assert "own" in registry
    assert registry
    assert not asked
    assert "other" not in registry
    assert list(registry) == ["own"]
    assert asked
    with pytest.raises(ValueError, match="'own' is already registered"):
        registry.register("own", 2)


def test_every_kind_says_what_it_is():
    kinds = encoder_kinds()
    assert list(kinds)[:4] == ["image", "tfidf", "text", "imported"]
    facts = {name: (k.settings.tunable, k.settings.fitted, k.settings.made_elsewhere) for name, k in kinds.items()}
    assert facts["image"] == facts["text"] == (True, False, False)
    assert facts["tfidf"] == (False, True, False)
    assert facts["imported"] == (False, False, True)
    for kind in kinds.values():
        assert modality_kind(kind.modality).reads == kind.reads
    assert list(MODALITY_TABLES)[:3] == ["image", "text", "other"]


@pytest.mark.parametrize(
    ("modality", "raw", "kind"),
    [
        ("image", {}, "image"),
        ("image", {"model": "torchvision:resnet18"}, "image"),
        ("text", {"model": "a/b"}, "text"),
        ("text", {"model": "tfidf"}, "tfidf"),
        ("other", {"imported": "ab"}, "imported"),
    ],
)
def test_a_table_and_a_record_tell_their_kind(modality, raw, kind):
    assert encoder_table_class(modality, raw).kind == kind
    assert kind_of_record({"modality": modality, **raw}).name == kind


def test_an_unknown_modality_or_kind_is_one_line(tmp_path):
    (tmp_path / "mmfeat.toml").write_text('schema = 1\n[encoder.smell]\nfolder = "x"\n')
    with pytest.raises(ConfigError, match=r'needs its modality. Write: modality = "image" or modality = "text"'):
        load_config(tmp_path / "mmfeat.toml")
    for wrong in (
        lambda: encoder_kind("smell"),
        lambda: modality_kind("smell"),
        lambda: kind_of_record({"modality": "smell"}),
    ):
        with pytest.raises(EncoderError, match="Install the package"):
            wrong()


def test_the_guide_has_the_tested_code():
    text = (ROOT / "docs" / "how-to" / "extend.md").read_text(encoding="utf-8")
    for name in ("mmfeat_sound.py", "mmfeat_products.py", "pyproject.toml"):
        assert (PACKAGE / name).read_text(encoding="utf-8").rstrip() in text, name


def test_kinds_are_known_without_their_libraries():
    code = (
        "import sys; from mmfeat.encoders.kinds import encoder_kinds; encoder_kinds(); import mmfeat.project.project\n"
    )
    code += "sys.exit(str({'torch', 'timm', 'transformers', 'sklearn', 'PIL'} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stderr.strip() == ""


def test_every_policy_method_and_head_of_the_settings_is_registered():
    from mmfeat.config.schema import HEADS, METHODS, POLICIES
    from mmfeat.heads import HEADS as CLASSES
    from mmfeat.runs.ensemble_weights import _METHODS
    from mmfeat.selftraining.policies import _POLICIES

    assert set(_POLICIES) == set(POLICIES)
    assert set(_METHODS) == set(METHODS) - {"mean"}
    assert list(CLASSES) == list(HEADS)


def test_image_families_are_looked_up_in_their_order():
    from mmfeat.encoders.families.image_network import image_families
    from mmfeat.encoders.model_names import image_family, is_image_model

    assert [family.source for family in image_families()] == ["timm", "torchvision"]
    assert image_family("image", "resnet18", "auto", Path("/"))[0].source == "timm"
    assert image_family("image", "torchvision:resnet18", "auto", Path("/"))[0].source == "torchvision"
    assert image_family("image", "efficientnetv2_s", "auto", Path("/"))[1] == "tf_efficientnetv2_s"
    assert image_family("image", "efficientnetv2_s", "random", Path("/"))[1] == "efficientnetv2_s"
    assert not is_image_model("bert")
