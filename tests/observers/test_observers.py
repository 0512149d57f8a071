"""What looks at a run leaves no trace in it. Real runs of a tiny DiT on the digits."""

import dataclasses
import random

import numpy as np
import torch

from alphaflow.observers.base import Observer, RunView
from alphaflow.runs.folder import RunFolder
from alphaflow.training.observing import undisturbed
from alphaflow.training.trainer import Trainer
from tiny_runs import TINY, lines, same, weights


class Meddler(Observer):
    """Draws from every global generator, changes modes, leaves gradients; counts its turns in its state."""

    name, every = "meddler", 3

    def __init__(self) -> None:
        self.turns = 0
        self.began_clean: list[bool] = []

    def observe(self, run: RunView) -> dict[str, float]:
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
        self.began_clean.append(all(weight.grad is None for weight in run.net.parameters()))
        run.net.eval(), run.ema.train()
        x, y = run.dataset.batch(torch.arange(4))
        z, t = x.to(run.device), torch.full((4,), 0.5)
        run.net(z, t / 2, t, y).square().mean().backward()
        norm = sum(float(weight.grad.square().sum()) for weight in run.net.parameters() if weight.grad is not None)
        self.turns += 1
        return {"meddler_norm": norm, "meddler_turns": self.turns}

    def state(self):
        return {"turns": self.turns}

    def load(self, state):
        self.turns = state.get("turns", 0)


def run(folder, observers, config=TINY, *, resume=False, **options):
    trainer = Trainer.resume(RunFolder(folder)) if resume else Trainer.start(config, RunFolder(folder))
    trainer.observers += observers
    trainer.train(**options)
    return trainer


def test_what_an_observer_does_leaves_no_trace(tmp_path):
    run(tmp_path / "plain", [])
    meddler = Meddler()
    trainer = run(tmp_path / "seen", [meddler])
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "seen"))
    assert trainer.net.training and all(meddler.began_clean)
    seen = [{k: v for k, v in row.items() if not k.startswith("meddler")} for row in lines(tmp_path / "seen")]
    assert seen == lines(tmp_path / "plain")


def test_global_generators_go_on_as_if_nobody_had_drawn():
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002

    net, drawn = torch.nn.Linear(1, 1), []
    for meddles in (False, True):
        torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
        with undisturbed(net):
            if meddles:
                draw()
        drawn.append(draw())
    assert drawn[0] == drawn[1]


def test_an_observer_looks_at_its_steps_and_at_the_last_and_has_lines_of_its_own_elsewhere(tmp_path):
    run(tmp_path, [Meddler()], dataclasses.replace(TINY, log_every=4))
    rows = lines(tmp_path)
    assert [row["step"] for row in rows] == [3, 4, 6, 8]
    assert [row.get("meddler_turns") for row in rows] == [1, None, 2, 3]
    assert [set(row) >= {"residual", "lr"} for row in rows] == [False, True, False, True]


def test_an_observer_goes_on_where_the_checkpoint_left_it(tmp_path):
    run(tmp_path / "whole", [Meddler()])
    run(tmp_path / "parts", [Meddler()], stop_after=4)
    trainer = Trainer.resume(RunFolder(tmp_path / "parts"))
    assert trainer.step == 4
    late = Meddler()
    trainer.observers.append(late)
    trainer.restore()  # observers of one's own are there before their state
    trainer.train()
    assert late.turns == 3 and lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
