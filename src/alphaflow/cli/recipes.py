"""`alphaflow recipes`."""

from ..recipes import RECIPES
from . import Parser


def run(words: list[str]) -> None:
    """Print every recipe: what it does, its command, cost and expected result. Twins take a line each."""
    Parser(prog="alphaflow recipes", description="List the recipes.").parse_args(words)
    for recipe in RECIPES.values():
        if recipe.twin_of:
            continue
        print(f"{recipe.name}: {recipe.summary}")
        print(f"    {recipe.command}")
        print(f"    cost      {recipe.cost}")
        print(f"    expected  {recipe.expected}")
        for twin in RECIPES.values():
            if twin.twin_of == recipe.name:
                print(f"    twin      {twin.name}: {twin.expected}")
        print()
