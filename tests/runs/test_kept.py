"""What a run takes up again: nothing of another run, and nothing that is damaged."""

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from alphaflow.cli import run
from alphaflow.errors import UserError
from alphaflow.runs import checkpoint
from alphaflow.runs.config import OptimizerConfig
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer
from tiny_runs import TINY_TOY as TOY
from tiny_runs import lines, same, weights


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("done") / "run"
    Trainer.start(TOY, RunFolder(out)).train()
    return out


@pytest.fixture
def copy(done, tmp_path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run", symlinks=True))


# --- what is gone on with ----------------------------------------------------------------------------------------


def test_fewer_steps_than_are_done_are_refused_and_nothing_is_written(copy, capsys):
    before = (copy / "config.yaml").read_bytes()
    assert run(["train", "--resume", str(copy), "--steps", "3"]) == 2
    assert "--steps 3: " in (said := capsys.readouterr().err) and "has 8 steps done already" in said
    assert (copy / "config.yaml").read_bytes() == before
    assert run(["train", "--resume", str(copy), "--steps", "8"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 0", "seed: 1", "seed is 1, was 0"),
        ("batch_size: 16", "batch_size: 32", "batch_size is 32, was 16"),
        ("name: alphaflow", "name: meanflow", "began with the objective 'alphaflow: "),
    ],
)
def test_settings_changed_by_hand_are_refused(copy, old, new, said):
    file = copy / "config.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UserError, match=said):
        Trainer.resume(RunFolder(copy), steps=10)


def test_what_does_not_change_the_steps_may_be_changed_by_hand(copy):
    file = copy / "config.yaml"
    file.write_text(file.read_text().replace("log_every: 1", "log_every: 2"))
    assert Trainer.resume(RunFolder(copy), steps=10).step == 8


def edit_state(copy: Path, change) -> None:
    file = copy / "checkpoints" / "step-00000008" / "state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps(change(state)))


STATES = {
    "no moments": lambda s: {**s, "sha256": {k: v for k, v in s["sha256"].items() if "optimizer" not in k}},
    "no hashes": lambda s: {k: v for k, v in s.items() if k != "sha256"},
    "empty hashes": lambda s: {**s, "sha256": {}},
    "hashes of another kind": lambda s: {**s, "sha256": [1]},
    "a list": lambda s: [s],
    "another step": lambda s: {**s, "step": 9},
    "a step in words": lambda s: {**s, "step": "eight"},
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_of_another_shape_is_damage_and_the_one_before_it_is_used(copy, caplog, name):
    edit_state(copy, STATES[name])
    assert Trainer.resume(RunFolder(copy)).step == 6
    assert "step-00000008 is damaged (state.json" in caplog.text


def test_a_checkpoint_without_moments_is_not_gone_on_from(copy, caplog):
    (copy / "checkpoints" / "step-00000008" / "optimizer.safetensors").unlink()
    edit_state(copy, STATES["no moments"])
    assert Trainer.resume(RunFolder(copy)).step == 6
    assert "step-00000008 holds no moments of the optimizer" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {**s, "bad_steps": "many"},
        lambda s: {k: v for k, v in s.items() if k != "bad_steps"},
        lambda s: {**s, "observers": [3]},
        lambda s: {**s, "spikes": {"recent": "abc"}},
    ],
)
def test_a_state_with_wrong_values_is_one_line(copy, change):
    edit_state(copy, change)
    with pytest.raises(UserError, match=r"state.json is not as it was written"):
        Trainer.resume(RunFolder(copy))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("num_classes: 0", "num_classes: many"),
        lambda text: text.replace("shape:", "shapes:"),
        lambda text: text[: text.index("data:\n  shape")] if "data:\n  shape" in text else "",
        lambda text: text.replace("seed: 0", "1: 0"),
        lambda text: text.replace("seed: 0", "seed: 2026-13-45"),
        lambda text: text.replace("seed: 0", "seed: [0"),
        lambda text: "",
        lambda text: "\x00\x01",
        lambda text: text.replace("steps: 8", "steps: -8"),
    ],
)
def test_a_config_of_wrong_content_is_one_line_that_names_it(copy, capsys, change):
    file = copy / "config.yaml"
    before = file.read_text()
    file.write_text(change(before))
    assert file.read_text() != before
    assert run(["train", "--resume", str(copy)]) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(file) in said and "Error" not in said


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00garbage\n",
        b'["a list"]\n3\n"x"\nnull\n',
        b'{"step": "two"}\n{"step": null}\n',
        b"{" * 5000,
    ],
)
def test_a_log_of_wrong_content_stops_no_run(copy, content):
    """Its lines are left out, and the file as it was is kept beside it."""
    kept = (copy / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_bytes(b"".join(kept[:2]) + content + b"\n" + b"".join(kept[2:]))
    Trainer.resume(RunFolder(copy), steps=9).train()
    assert [row["step"] for row in lines(copy)] == list(range(1, 10))
    assert (copy / "metrics.damaged.jsonl").read_bytes().count(content) == 1


def test_a_log_that_is_a_folder_stops_no_run(copy, caplog):
    (copy / "metrics.jsonl").unlink()
    (copy / "metrics.jsonl").mkdir()
    Trainer.resume(RunFolder(copy), steps=9).train()
    assert caplog.text.count("cannot write metrics") == 1 and checkpoint.newest(copy / "checkpoints").step == 9


# --- copies ------------------------------------------------------------------------------------------------------


def go_on(folder: Path) -> None:
    """Two steps further, as an undisturbed run, with `latest` a relative link and no more than two kept."""
    Trainer.resume(RunFolder(folder), steps=10).train()
    kept = folder / "checkpoints"
    assert checkpoint.steps_in(kept) == [8, 10] and str((kept / "latest").readlink()) == "step-00000010"
    assert not list(kept.glob(".*"))


@pytest.fixture(scope="module")
def longer(done, tmp_path_factory) -> dict:
    out = Path(shutil.copytree(done, tmp_path_factory.mktemp("longer") / "run", symlinks=True))
    go_on(out)
    return weights(out)


def followed(run: Path) -> None:
    """As `cp -rL`, zip and many file managers copy it."""
    (run / "checkpoints" / "latest").unlink()
    shutil.copytree(run / "checkpoints" / "step-00000008", run / "checkpoints" / "latest")


def left_out(run: Path) -> None:
    """As rsync without -l."""
    (run / "checkpoints" / "latest").unlink()


def as_text(run: Path) -> None:
    """As a checkout or an archive on a system without links."""
    left_out(run)
    (run / "checkpoints" / "latest").write_text("step-00000008")


def alone(run: Path) -> None:
    """Only what `latest` led to was copied."""
    followed(run)
    for step in (6, 8):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")


def one_behind(run: Path) -> None:
    """As after a kill between the commit of a checkpoint and its link."""
    left_out(run)
    (run / "checkpoints" / "latest").symlink_to("step-00000006")


def of_nobody(run: Path) -> None:
    """A folder of something else."""
    left_out(run)
    (run / "checkpoints" / "latest").mkdir()
    (run / "checkpoints" / "latest" / "mine.txt").write_text("keep")


@pytest.mark.parametrize("how", [followed, left_out, as_text, alone, one_behind])
def test_a_copied_run_goes_on_as_the_original(copy, longer, how):
    how(copy)
    go_on(copy)
    assert same(weights(copy), longer)


def test_only_latest_can_be_read_where_nobody_may_write(copy):
    alone(copy)
    import alphaflow as af

    assert af.load(copy).step == 8 and not (copy / "checkpoints" / "latest").is_symlink()


def test_what_lies_in_the_place_of_latest_is_moved_aside(copy):
    of_nobody(copy)
    go_on_anyway = Trainer.resume(RunFolder(copy), steps=10)
    go_on_anyway.train()
    assert (copy / "checkpoints" / "latest.aside" / "mine.txt").read_text() == "keep"
    assert str((copy / "checkpoints" / "latest").readlink()) == "step-00000010"


def test_resuming_sets_latest_right_and_clears_what_dead_processes_left(copy):
    one_behind(copy)
    left = ["config.tmp", "metrics.tmp", ".config.yaml.tmp", "samples/.step-00000008.png.tmp"]
    for name in left:
        (copy / name).write_text("half")
    (copy / "checkpoints" / ".step-00000010.tmp").mkdir()
    (copy / "checkpoints" / ".latest.tmp").symlink_to("step-00000010")
    Trainer.resume(RunFolder(copy)).train()
    assert str((copy / "checkpoints" / "latest").readlink()) == "step-00000008"
    assert not [path for path in copy.rglob("*") if path.name.endswith(".tmp")]


def test_a_run_that_ended_before_its_first_checkpoint_begins_again_without_a_warning(copy, caplog):
    shutil.rmtree(copy / "checkpoints")
    Trainer.resume(RunFolder(copy)).train()
    assert checkpoint.newest(copy / "checkpoints").step == 8
    assert "latest" not in caplog.text and "start it anew" not in caplog.text


def test_a_finished_run_on_a_read_only_disk_is_said_to_be_finished(copy, capsys):
    """And one that is not is refused in one line."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("no right to mount")
    mount = ["mount", "--bind", "-o", "ro", str(copy), str(copy)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        if not subprocess.run(["touch", str(copy / "x")], capture_output=True).returncode:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(copy)], check=True)
        assert run(["train", "--resume", str(copy)]) == 0
        assert "8 of 8 steps done" in capsys.readouterr().out
        assert run(["train", "--resume", str(copy), "--steps", "9"]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "Read-only file system" in said
    finally:
        subprocess.run(["umount", "-l", str(copy)], check=True)


def test_moments_of_another_network_are_named(copy):
    config = dataclasses.replace(TOY, optimizer=OptimizerConfig(), init=str(copy))
    (file,) = (copy / "checkpoints" / "step-00000008").glob("optimizer.safetensors")
    from safetensors.torch import load_file, save_file

    save_file({f"other.{name}": one.clone() for name, one in load_file(file).items()}, copy / "new")
    digest = __import__("hashlib").sha256((copy / "new").read_bytes()).hexdigest()
    (copy / "new").replace(file)
    edit_state(copy, lambda s: {**s, "sha256": {**s["sha256"], file.name: digest}})
    with pytest.raises(UserError, match="holds moments of 'other"):
        Trainer.start(config, RunFolder(copy.parent / "second"))
