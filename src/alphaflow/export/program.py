"""A folder with model.pt2, a program of `torch.export`."""

from pathlib import Path

from .card import conditions, quoted, write_card
from .model import Model
from .network_to_program import write_program

FILE = "model.pt2"


def write(model: Model, out: Path) -> str:
    """Write it, and compare it with the network."""
    model.make_folder(out)
    generator = model.generator
    difference = write_program(generator.net, out / FILE, shape=generator.shape, num_classes=generator.told)
    labels = ", y" if generator.told else ""
    classes = conditions(model, "torch.arange(rows)", "torch.tensor({})")
    usage = f"""\
import torch

net = torch.export.load({quoted(f"{out.name}/{FILE}")}).module()
rows = 4
z = torch.randn(rows, {", ".join(map(str, generator.shape))})
{classes}u = net(z, torch.zeros(rows), torch.ones(rows){labels})
x = z - u  # one step from noise, t = 1, to data, r = 0; in general z - (t - r) u
"""
    write_card(model, out, usage)
    return f"{out / FILE}: differs from torch by {difference:.1g} at most"
