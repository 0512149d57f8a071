"""`alphaflow recipes`."""

from ..recipes import RECIPES
from . import Parser


def run(words: list[str]) -> None:
    """Print every recipe: what it does, its command, cost and expected result."""
    Parser(prog="alphaflow recipes", description="List the recipes.").parse_args(words)
    for recipe in RECIPES.values():
        print(f"{recipe.name}: {recipe.summary}")
        print(f"    {recipe.command}")
        print(f"    cost      {recipe.cost}")
        print(f"    expected  {recipe.expected}\n")
