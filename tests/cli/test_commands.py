"""Every command as it is typed, on a few dozen images."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from helpers.command_line import COMMAND, run_cli, run_process
from helpers.projects import TINY


@pytest.fixture(scope="module")
def walked(tmp_path_factory, small_source):
    """The whole path typed once, in order; gives the folder and each command's output."""
    folder = tmp_path_factory.mktemp("walk")
    out = {"init": run_cli("init", str(small_source), cwd=folder)}
    toml = folder / "mmfeat.toml"
    assert "images    = " in toml.read_text(encoding="utf-8")
    text = json.dumps(str(small_source / "text-encoder"))
    toml.write_text(TINY.format(source=json.dumps(str(small_source)), text=text), encoding="utf-8")
    (folder / "manifest.parquet").unlink()  # another share of val
    for name, arguments in {
        "init again": ["init"],
        "status before": ["status"],
        "finetune": ["finetune", "text"],
        "freeze": ["finetune", "image", "--freeze"],
        "extract": ["extract"],
        "extract again": ["extract"],
        "image alone": ["fuse", "--head", "linear", "--inputs", "image"],
        "concat": ["fuse", "--head", "concat"],
        "fuse": ["fuse", "--head", "crossattn"],
        "fuse again": ["fuse", "--head", "crossattn"],
        "fm1": ["ensemble", "fm1"],
        "fm2": ["ensemble", "fm2"],
        "fm3": ["ensemble", "fm3"],
        "members": ["ensemble", "text", "concat-1"],
        "selftrain": ["selftrain", "--rounds", "5"],
        "predict": ["predict"],
        "evaluate": ["evaluate", "fm3-1", "crossattn-1"],
        "runs": ["runs"],
        "status": ["status"],
    }.items():
        out[name] = run_cli(*arguments, cwd=folder)
    return folder, out


def test_every_command_ends_with_what_was_made_and_what_to_type_next(walked):
    _, out = walked
    for name, done in out.items():
        last = done.stdout.strip().splitlines()[-1]
        assert "Next: " in last, (name, last)
        assert "Traceback" not in done.stderr


def test_init_accounts_for_every_row(walked):
    _, out = walked
    text = out["init"].stdout
    assert "80   60 labelled, 20 unlabelled" in text
    assert "0 missing" in text


def test_finished_commands_typed_again_do_nothing(walked):
    _, out = walked
    assert out["extract again"].stdout.count("nothing to encode") == 2
    assert "up to date" in out["extract again"].stdout
    assert "Already made: runs/crossattn-1" in out["fuse again"].stdout


def test_status_counts_rows(walked):
    _, out = walked
    before, after = (out[name].stdout.splitlines() for name in ("status before", "status"))
    counts = {line.split()[0]: line.split()[2:7] for line in before[1:3]}
    assert counts["image"] == ["0", "80", "0", "0", "0"]
    counts = {line.split()[0]: line.split()[2:7] for line in after[1:3]}
    assert counts["image"] == ["80", "0", "0", "0", "0"]
    cached, *nothing, absent = counts["text"]
    assert int(cached) + int(absent) == 80
    assert nothing == ["0", "0", "0"]


def test_a_submission_has_a_row_for_each_row_of_test_csv_in_its_order(walked, small_source):
    folder, _ = walked
    got = list(csv.reader((folder / "submission.csv").open(encoding="utf-8")))
    wanted = list(csv.reader((small_source / "test.csv").open(encoding="utf-8")))
    assert got[0] == ["ImageID", "Labels"]
    assert [row[0] for row in got] == [row[0] for row in wanted]
    from mmfeat.data.demo_data import CLASSES

    for _, labels in got[1:]:
        assert labels
        assert set(labels.split()) <= set(CLASSES)


def test_probabilities_agree_with_the_submission(walked):
    import pyarrow.parquet as pq

    folder, _ = walked
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    rows = list(csv.DictReader((folder / "submission.csv").open(encoding="utf-8")))
    assert table["id"] == [row["ImageID"] for row in rows]
    for i, row in enumerate(rows):
        probs = {name[2:]: column[i] for name, column in table.items() if name.startswith("p_")}
        above = {name for name, p in probs.items() if p > 0.5} or {max(probs, key=probs.get)}
        assert above == set(row["Labels"].split())


def test_a_runs_record_says_what_it_was_made_from(walked):
    folder, _ = walked
    record = json.loads((folder / "runs" / "crossattn-1" / "run.json").read_text(encoding="utf-8"))
    assert {"image", "text"} == set(record["encoders"])
    assert len(record["encoders"]["image"]["key"]) == 64
    assert record["seeds"] == [0, 1]
    assert record["versions"]["torch"]
    assert record["config"]["fuse"]["crossattn"]["token_width"] == 32
    assert record["figures"]["val"]["n_samples"] == 15
    rounds = json.loads((folder / "runs" / "selftrain-1" / "run.json").read_text(encoding="utf-8"))["rounds"]
    assert rounds[0]["number"] == 0
    assert rounds[0]["n_pseudo"] == 0


def test_nothing_unfinished_is_left(walked):
    folder, _ = walked
    assert not list(folder.rglob(".tmp-*"))
    assert not list(folder.rglob(".resume-*"))


def test_project_works_from_elsewhere(walked, tmp_path):
    folder, out = walked
    elsewhere = run_cli("--project", str(folder), "runs", cwd=tmp_path).stdout
    assert elsewhere == out["runs"].stdout.replace("Next: mmfeat ", f"Next: mmfeat --project {folder} ")
    below = folder / "runs" / "fm1-1"
    assert run_cli("runs", cwd=below).stdout == out["runs"].stdout


def test_status_config_is_printable(walked, tmp_path):
    folder, _ = walked
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("features", "runs"))
    with (tmp_path / "copy" / "mmfeat.toml").open("a", encoding="utf-8") as file:
        file.write('[predict]\n[store]\npath = "a\\u001b[31mb"\n')
    text = run_cli("status", "--config", cwd=tmp_path / "copy").stdout
    assert "a\\x1b[31mb" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_another_seed_reads_the_same_features(walked, tmp_path):
    folder, _ = walked
    shutil.copytree(folder, tmp_path / "copy")
    done = run_cli("fuse", "--head", "concat", "--seed", "1", cwd=tmp_path / "copy")
    assert "Made runs/concat-2" in done.stdout


def test_status_config_says_where_each_value_comes_from(walked):
    folder, _ = walked
    text = run_cli("status", "--config", "--set", "fuse.crossattn.dropout=0.1", cwd=folder).stdout
    lines = {line.split()[0]: line.split() for line in text.splitlines()[1:]}
    assert lines["fuse.crossattn.dropout"][-2:] == ["0.1", "option"]
    assert lines["fuse.seeds"][-2:] == ["2", "mmfeat.toml"]
    assert lines["metric"][-1] == "default"


def test_an_option_makes_another_run_and_leaves_the_file_alone(walked, tmp_path):
    folder, _ = walked
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = (copy / "mmfeat.toml").read_bytes()
    done = run_cli("fuse", "--head", "linear", "--inputs", "text", "--seed", "3", cwd=copy)
    assert "Made runs/linear-2" in done.stdout
    assert (copy / "mmfeat.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["fuse", "--head", "mpl"], 1, "Use one of: linear, mlp, concat, crossattn"),
        (["fuse", "--inputs", "image,txt"], 1, "Nearest: text"),
        (["fuse", "--inputs", "image"], 1, "crossattn needs two or more encoders, found image. Use: --head linear"),
        (["fuse", "--set", "fuse.crosattn.dropout=1"], 1, "Nearest: crossattn"),
        (["fuse", "--set", "encoder.image.size=64"], 1, "has no options"),
        (["ensemble", "nothing"], 1, "no run or encoder 'nothing'"),
        (["ensemble", "fm1", "text"], 1, "takes no other members"),
        (["predict", "../../etc"], 1, "no run"),
        (["predict", "--split", "test"], 1, "no test rows"),
        (["evaluate", "--split", "test"], 1, "no labelled test rows"),
        (["finetune", "picture"], 1, "no encoder 'picture'"),
        (["fuse", "--rounds", "3"], 2, "No such option"),
        (["nonsense"], 2, "No such command"),
        (["fuse", "--device", "cuda:9"], 1, "Use: auto or cpu"),
        (["fuse", "--device", "mps"], 1, "Use one of: auto, cpu, cuda, cuda:1"),
        (["fuse", "--set", "=3"], 1, "write KEY=VALUE"),
        (["fuse", "--set", "fuse..lr=3"], 1, "write KEY=VALUE"),
        (["fuse", "--set", "fuse.crossattn.lr=nan"], 1, "must be a number"),
        (["fuse", "--set", "a\x1b[31mb=1"], 1, "unknown key 'a\\x1b[31mb'"),
        (["predict", "--threshold", "nan"], 1, "must be a number"),
        (["demo", "--folder", "x", "--seed", "-1"], 1, "option seed: seed = -1"),
        (["init", "--separator", ""], 1, "mmfeat.toml says data.separator"),
        (["init", "--val", "0.5"], 1, "mmfeat.toml says split.val = 0.25"),
    ],
)
def test_a_mistake_is_one_line(walked, arguments, code, says):
    folder, _ = walked
    done = run_cli(*arguments, cwd=folder, check=False)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["evaluate", "concat-1"], ["fuse", "--head", "mpl"], ["fuse", "--rounds", "3"], ["--help"]],
)
def test_the_installed_entry_point_says_what_the_same_command_says_in_this_process(walked, arguments):
    folder, _ = walked
    here, alone = (run(*arguments, cwd=folder, check=False) for run in (run_cli, run_process))
    assert (here.returncode, here.stdout, here.stderr) == (alone.returncode, alone.stdout, alone.stderr)


def test_outside_a_project(tmp_path):
    for command in ("status", "extract", "fuse", "runs"):
        done = run_cli(command, cwd=tmp_path, check=False)
        assert done.returncode == 1
        assert "Run: mmfeat init" in done.stderr
    assert not list(tmp_path.iterdir())


def test_commands_before_their_time_say_what_to_type(project_folder):
    for arguments, says in {
        ("fuse",): "Run: mmfeat extract",
        ("selftrain",): "Run: mmfeat extract",
        ("predict",): "Run: mmfeat fuse",
        ("ensemble", "fm1"): "Run: mmfeat finetune",
        ("ensemble", "fm3"): "Run: mmfeat fuse --head crossattn",
    }.items():
        done = run_cli(*arguments, cwd=project_folder, check=False)
        assert done.returncode == 1, done.stdout
        assert says in done.stderr, done.stderr
    assert not (project_folder / "runs").exists()


@pytest.mark.slow
def test_an_extraction_that_is_killed_goes_on(project_folder):
    """Killed at any moment, typed again it ends with the rows of an undisturbed one."""
    from mmfeat.project.project import Project

    command = [COMMAND, "extract"]
    for begun in ("features", "features/*/encoder.json", "features/*/commits/*.json", "features/bert*/encoder.json"):
        process = subprocess.Popen(command, cwd=project_folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not any(project_folder.glob(begun)):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run_cli("extract", cwd=project_folder)
    other = project_folder.parent / "undisturbed"
    shutil.copytree(project_folder, other, ignore=shutil.ignore_patterns("features", ".mmfeat"))
    run_cli("extract", cwd=other)
    tables = [Project(folder).feature_table(["image", "text"]) for folder in (project_folder, other)]
    for name in ("image", "text"):
        a, b = (np.asarray(t.embeddings[name][:], dtype=np.float32) for t in tables)
        assert np.array_equal(tables[0].present[name], tables[1].present[name])
        assert np.allclose(a, b, atol=2e-2, rtol=1e-2)


@pytest.mark.slow
def test_two_extractions_at_once(project_folder):
    command = [COMMAND, "extract"]
    both = [subprocess.Popen(command, cwd=project_folder, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert run_cli("extract", cwd=project_folder).stdout.count("nothing to encode") == 2


@pytest.mark.slow
def test_interrupting_says_so_and_keeps_what_was_done(project_folder):
    process = subprocess.Popen(
        [
            COMMAND,
            "finetune",
            "image",
            "--set",
            "finetune.image.epochs=500",
            "--set",
            "finetune.image.patience=500",
        ],
        cwd=project_folder,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    kept = project_folder / "checkpoints" / ".resume-image.safetensors"
    deadline = time.monotonic() + 120
    while not kept.is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in err
    assert "Traceback" not in err
    assert kept.is_file()
