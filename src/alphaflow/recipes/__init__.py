"""Recipes: what runs. Each is a typed value with its command, its cost and the result to expect beside it.

Importing this loads no torch, so that `alphaflow recipes` answers at once.
"""

from .autoencoders import AUTOENCODERS
from .base import Recipe
from .digits import DIGITS
from .fashion import FASHION
from .folder import FOLDER
from .imagenet import IMAGENET
from .kinetics import KINETICS
from .latents import LATENTS
from .moving import MOVING_DIGITS
from .pictures import PICTURES
from .shapes import SHAPES
from .toy import TOY

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        DIGITS,
        FASHION,
        SHAPES,
        TOY,
        PICTURES,
        FOLDER,
        LATENTS,
        MOVING_DIGITS,
        *IMAGENET,
        *AUTOENCODERS,
        KINETICS,
    )
}
"""All recipes by their names on the command line."""

__all__ = ["RECIPES", "Recipe"]
