"""Diagnoses against plain backward passes and against what the theory says."""

import csv
import dataclasses
import json
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from alphaflow.cli import run
from alphaflow.diagnostics import Subject, diagnose, open_subject, read_all
from alphaflow.diagnostics.curve import BiasVarianceCurve
from alphaflow.diagnostics.gradients import GradientMoments, Gradients, group_of
from alphaflow.diagnostics.maps import CELLS, Maps
from alphaflow.diagnostics.measure import Terms, two_point
from alphaflow.diagnostics.record import LOSSES, PAIRS
from alphaflow.errors import UserError
from alphaflow.method.family import MEMBERS, MeanFlow
from alphaflow.parallel.parallel import Parallel
from alphaflow.path import Points
from alphaflow.recipes import RECIPES
from alphaflow.rng import KeyedRandom, hash_key
from alphaflow.runs import checkpoint
from alphaflow.runs.build import build_model, build_objective
from alphaflow.runs.config import DiagnosisConfig, EMAConfig, ModelConfig, ObjectiveConfig, OptimizerConfig
from alphaflow.runs.data_record import batches_of
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer

TINY = dataclasses.replace(
    RECIPES["digits"].config,
    steps=12,
    batch_size=16,
    log_every=6,
    checkpoint_every=6,
    sample_every=12,
    objective=ObjectiveConfig(name="meanflow", flow_ratio="0.3"),
    model=ModelConfig(name="dit", width=16, depth=2, heads=2, patch=4),
    optimizer=OptimizerConfig(lr=1e-2),
    ema=EMAConfig(half_life=5),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run that diagnosed itself on the way."""
    out = tmp_path_factory.mktemp("runs") / "run"
    Trainer.start(dataclasses.replace(TINY, diagnosis=DiagnosisConfig(every=6, batches=3)), RunFolder(out)).train()
    return out


def plain_gradients(subject: Subject, k: int) -> dict[str, torch.Tensor]:
    """Three backward passes and that of the full objective, each on its own; du/dt by torch's forward mode."""
    config = subject.config
    net = build_model(config.model, subject.dataset.shape, subject.dataset.num_classes)
    net.load_state_dict(checkpoint.newest(RunFolder(Path(subject.run)).checkpoints).whole("model"))
    objective = build_objective(config, subject.dataset.num_classes)
    seed = hash_key(config.seed, "diagnosis")
    x, y, ids = batches_of(subject.dataset, config.data, config.batch_size, seed)(k)
    random = KeyedRandom(seed, ids)
    far, near = (objective.draw(net, x, y, generator=random, flow_rows=rows) for rows in (0, len(x)))
    with sdpa_kernel(SDPBackend.MATH):
        points, tangents = (far.z, far.t), (far.v, torch.ones_like(far.t))
        _, slope = torch.func.jvp(lambda z, t: net(z, far.r, t, y), points, tangents)
    gap = (far.t - far.r)[:, None, None, None]
    losses = {
        "tfm": lambda: (net(far.z, far.r, far.t, y) - far.v).square().mean(),
        "tc": lambda: (2 * gap * net(far.z, far.r, far.t, y) * slope.detach()).mean(),
        "fm": lambda: (net(near.z, near.t, near.t, y) - near.v).square().mean(),
        "full": lambda: objective(net, x, y, step=subject.step, generator=random).loss,
    }
    found = {}
    for name, loss in losses.items():
        parts = torch.autograd.grad(loss(), list(net.parameters()), allow_unused=True, materialize_grads=True)
        found[name] = torch.cat([part.flatten() for part in parts]).double()
    return found


def test_cosines_and_norms_are_those_of_plain_backward_passes(trained):
    subject = open_subject(trained)
    ours = diagnose(subject, batches=2, alphas=())
    plain = [plain_gradients(subject, k) for k in range(2)]
    for one, other in PAIRS:
        cosines = [torch.cosine_similarity(g[one], g[other], dim=0).item() for g in plain]
        assert ours.cosines[f"{one},{other}"].mean == pytest.approx(sum(cosines) / 2, abs=1e-5)
        assert abs(cosines[0] - cosines[1]) > 1e-3  # batches differ
    for name in LOSSES:
        norms = [g[name].norm().item() for g in plain]
        assert ours.norms[name].mean == pytest.approx(sum(norms) / 2, rel=1e-5)
    assert len(ours.curve) == 0


@pytest.mark.parametrize("member", ["lagrangian", "tvm"])
def test_of_a_lagrangian_run_the_full_gradient_is_its_own_and_the_parts_are_meanflows(tmp_path, caplog, member):
    caplog.set_level("INFO", "alphaflow")
    ours = ObjectiveConfig(name=member, flow_ratio="0.3")
    config = dataclasses.replace(TINY, objective=ours, diagnosis=DiagnosisConfig(every=12, batches=2))
    Trainer.start(config, RunFolder(tmp_path / "run")).train()
    subject = open_subject(tmp_path / "run")
    found, own = diagnose(subject, batches=2, alphas=()), subject.objective
    other = dataclasses.replace(subject, objective=dataclasses.replace(own, shift="model", full_gradient=False))
    like_model = diagnose(other, batches=2, alphas=())
    plain = [plain_gradients(subject, k)["full"].norm().item() for k in range(2)]
    assert found.norms["full"].mean == pytest.approx(sum(plain) / 2, rel=1e-5)
    assert found.norms["tfm"] == like_model.norms["tfm"] and found.norms["tc"] == like_model.norms["tc"]
    assert found.norms["full"] != like_model.norms["full"]
    assert asdict(read_all(tmp_path / "run" / "diagnosis")[-1])["norms"] == asdict(found)["norms"]
    assert "the Lagrangian target has no parts TFM and TC" in caplog.text


def test_a_diagnosis_on_the_way_says_what_the_command_says_and_changes_nothing(trained, tmp_path):
    found = read_all(trained / "diagnosis")
    assert [one.step for one in found] == [6, 12]
    words = ["diagnose", str(trained), "--batches", "3", "--step"]
    for one in found:
        assert run([*words, str(one.step), "--out", str(tmp_path / "again")]) == 0
    for one, other in zip(found, read_all(tmp_path / "again")):
        assert one == other
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    said = {line["step"]: (line["diagnosis_cos_tfm_tc"], line["diagnosis_cos_fm_tc"]) for line in lines}
    assert said == {one.step: (one.cosines["tfm,tc"].mean, one.cosines["fm,tc"].mean) for one in found}
    Trainer.start(TINY, RunFolder(tmp_path / "plain")).train()
    ours, theirs = (checkpoint.newest(out / "checkpoints").whole("model") for out in (trained, tmp_path / "plain"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_files_hold_the_same_figures(trained):
    folder, last = trained / "diagnosis", read_all(trained / "diagnosis")[-1]
    with (folder / "step-00000012.csv").open() as file:
        rows = list(csv.DictReader(file))
    cosines = {row["of"]: row for row in rows if (row["quantity"], row["group"]) == ("cosine", "all")}
    for name, one in last.cosines.items():
        assert [float(cosines[name][key]) for key in ("mean", "low", "high", "error")] == [
            one.mean, one.low, one.high, one.error,
        ]  # fmt: skip
    counted = sum(float(row["mean"]) for row in rows if (row["quantity"], row["of"]) == ("map", "count"))
    assert counted == 3 * TINY.batch_size
    weighted = sum(
        value * last.counts[i][j]
        for i, row in enumerate(last.maps["tfm"])
        for j, value in enumerate(row)
        if value is not None
    )
    assert weighted / counted == pytest.approx(last.losses["tfm"].mean, rel=1e-6)
    names = {file.name for file in folder.glob("*.png")}
    assert names == {"cosines.png", "layers.png", "losses.png", "maps.png", "alpha.png"}


@pytest.mark.parametrize("setting", ["recompute: false", "accumulate: 1"])
def test_to_save_memory_changes_no_figure(trained, tmp_path, setting):
    """Blocks that are computed again, or a batch in four parts."""
    plain = diagnose(open_subject(trained), batches=2, alphas=(1, 0.1))
    out = tmp_path / "frugal"
    shutil.copytree(trained, out)
    file = out / "config.yaml"
    other = {"recompute: false": "recompute: true", "accumulate: 1": "accumulate: 4"}[setting]
    assert setting in file.read_text()
    file.write_text(file.read_text().replace(setting, other))
    again = diagnose(open_subject(out), batches=2, alphas=(1, 0.1))
    assert again.counts == plain.counts
    assert again.losses["full"].mean == pytest.approx(plain.losses["full"].mean, rel=1e-5)
    assert again.cosines["full,fm"].mean == pytest.approx(plain.cosines["full,fm"].mean, abs=1e-5)
    assert asdict(again.norms["tc"]) == pytest.approx(asdict(plain.norms["tc"]), rel=1e-5)
    assert again.cosines["tfm,tc"].mean == pytest.approx(plain.cosines["tfm,tc"].mean, abs=1e-5)
    assert [p.variance for p in again.curve] == pytest.approx([p.variance for p in plain.curve], rel=1e-4)


def test_without_a_gradient_there_is_no_cosine(tmp_path):
    """adaLN-zero: at the start only the output layer has a gradient, and du/dt is 0."""
    trainer = Trainer.start(TINY, RunFolder(tmp_path / "run"))
    parts = (trainer.net, trainer.objective, trainer.dataset, trainer.config, trainer.parallel, trainer.device)
    found = diagnose(Subject("new", 0, *parts), batches=2)
    assert found.cosines["tfm,tc"].mean is None and found.slope.mean == 0
    assert found.groups["blocks.0"]["tfm,fm"].mean is None
    assert found.groups["final_layer"]["tfm,fm"].mean is not None
    found.write(tmp_path / "diagnosis" / "step-00000000.json")
    assert read_all(tmp_path / "diagnosis") == [found]
    assert "–" in found.table()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "splitmeanflow"},
        {"name": "alphaflow", "omega": 1.5, "kappa": 0.3, "label_drop": 0.2},
        {"name": "facm"},
        {"name": "imeanflow", "derivative": "difference"},
    ],
    ids=lambda changes: changes["name"],
)
def test_any_member_can_be_diagnosed(tmp_path, changes):
    config = dataclasses.replace(TINY, steps=2, objective=ObjectiveConfig(**changes))
    Trainer.start(config, RunFolder(tmp_path / "run")).train()
    found = diagnose(open_subject(tmp_path / "run"), batches=2, alphas=(1, 0.1))
    assert (found.alpha is None) == (changes["name"] == "splitmeanflow")
    assert found.shift == MEMBERS[changes["name"]]().shift
    assert [point.alpha for point in found.curve] == [1, 0.1, 0]
    assert all(one.mean is None or -1 <= one.mean <= 1 for one in found.cosines.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step", "7"], "no checkpoint of step 7: there are 6, 12"),
        (["--batches", "1"], "--batches 1 must be at least 2"),
        (["--alphas", "2"], "--alphas 2 must be at most 1"),
    ],
)
def test_mistakes_are_named(trained, capsys, words, message):
    assert run(["diagnose", str(trained), *words]) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_damaged_diagnosis_is_named(tmp_path):
    (tmp_path / "step-00000001.json").write_text(json.dumps({"step": 1}))
    with pytest.raises(UserError, match=r"step-00000001\.json as a diagnosis"):
        read_all(tmp_path)


# ---------------------------------------------------------------------- the theory


@pytest.fixture
def place(net, batch) -> tuple[torch.nn.Module, Points, Gradients]:
    z, v, r, t, y = batch
    return net, Points(z, v, r, t, y, 0.0, 0), Gradients(net, Parallel())


def both(gradients, forward, terms) -> dict[str, list[torch.Tensor]]:
    losses = {"tfm": lambda _, u: terms.tfm(u), "tc": lambda _, u: terms.tc(u)}
    return dict(gradients.of_each([forward], losses))


def test_tfm_and_tc_together_are_meanflow(place):
    net, draw, gradients = place
    terms = Terms.at(net, draw, MeanFlow())
    forward = partial(net, draw.z, draw.r, draw.t, draw.y)
    parts = both(gradients, forward, terms)
    whole = gradients.of((forward() - terms.target).square().mean())
    for a, b, c in zip(parts["tfm"], parts["tc"], whole):
        torch.testing.assert_close(a + b, c)
    assert all(weight.grad is None for weight in net.parameters())


def test_products_of_groups_add_up_to_those_of_whole_gradients(place):
    net, draw, gradients = place
    forward = partial(net, draw.z, draw.r, draw.t, draw.y)
    two = [gradients.of(forward().square().mean()), gradients.of(forward().sum())]
    products = gradients.products(two)
    assert products.shape == (4, 2, 2) and gradients.groups == ["embedding", "first", "second", "last"]
    flat = torch.stack([torch.cat([part.flatten() for part in one]) for one in two])
    torch.testing.assert_close(products.sum(0), flat @ flat.T)
    last = torch.stack([torch.cat([part.flatten() for part in one[5:]]) for one in two])
    torch.testing.assert_close(products[3], last @ last.T)


def test_bias_falls_as_alpha_squared_and_alpha_1_is_tfm(place):
    """‖∇L_α - ∇L_MF‖ = O(α), α-Flow's Theorem 1; L_TFM = L_1."""
    net, draw, gradients = place
    curve = BiasVarianceCurve(gradients, (1, 0.02, 0.01))
    plain = []
    for shift in (0.0, 0.3, -0.2):
        here = dataclasses.replace(draw, z=draw.z + shift)
        terms = Terms.at(net, here, MeanFlow())
        forward = partial(net, here.z, here.r, here.t, here.y)
        parts = both(gradients, forward, terms)
        for alpha in curve.between:
            curve.add(alpha, gradients.of(two_point(net, here, MeanFlow(), alpha)(forward())), **parts)
        curve.end(**parts)
        plain.append(
            torch.cat([part.flatten() for part in gradients.of(two_point(net, here, MeanFlow(), 1)(forward()))])
        )
    tfm, half, small, limit = curve.points()
    assert (tfm.alpha, half.alpha, small.alpha, limit.alpha) == (1, 0.02, 0.01, 0)
    assert half.bias / small.bias == pytest.approx(4, rel=0.05)
    assert small.variance == pytest.approx(limit.variance, rel=0.05)
    assert tfm.variance == pytest.approx(torch.stack(plain).var(0).sum().item())


def test_estimates_from_sums_are_those_from_all_pairs():
    """Without bias: products of different batches only, whose noise is independent."""
    batches = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = GradientMoments()
    for row in batches:
        moments.add([row[:3], row[3:]], row.square().sum().item())
    square = sum(part.square().sum().item() for part in moments.total)
    gram = batches @ batches.T
    assert moments.mean_square(square) == pytest.approx((gram.sum() - gram.trace()).item() / 20)
    assert moments.spread(square) == pytest.approx(batches.var(0).sum().item())


def test_rows_fall_into_their_cells():
    t = torch.tensor([0.05, 0.55, 0.56, 1.0])
    r = torch.tensor([0.05, 0.04, 0.04, 0.0])
    maps = Maps(("value",))
    maps.add(r, t, {"value": torch.tensor([1.0, 2.0, 4.0, 8.0])})
    means, counts = maps.means(Parallel(), torch.device("cpu"))
    found = {(i, j): means["value"][i][j] for i in range(CELLS) for j in range(CELLS) if counts[i][j]}
    assert found == {(0, 0): 1.0, (5, 5): 3.0, (9, 9): 8.0} and counts[5][5] == 2
    assert means["value"][3][3] is None


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("net.blocks.11.attn.qkv.weight", "blocks.11"),
        ("blocks.0.fc1.bias", "blocks.0"),
        ("t_embedder.mlp.0.weight", "t_embedder"),
        ("net.final_layer.linear.bias", "final_layer"),
        ("0.weight", "0"),
    ],
)
def test_weights_are_grouped_by_block(name, group):
    assert group_of(name) == group
