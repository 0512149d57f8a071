"""The demo's page, in gradio: what is asked for above, a grid of each model below."""

import asyncio
import io
import random
import uuid
from typing import Any

from PIL import Image

from ..errors import UserError
from .service import Drawn, Service
from .wishes import IN_TURN, METHODS, MOST_PICTURES, MOST_SEED, MOST_STEPS, NO_CLASS

STYLE = """
.picture img { image-rendering: pixelated; width: 100%; }
footer { display: none !important; }
"""


def make_theme() -> Any:
    """Gradio's plain theme with the machine's own fonts: its usual ones come from another server."""
    import gradio as gr

    return gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def make_page(service: Service) -> Any:
    """The page as gradio's Blocks."""
    import gradio as gr

    first = service.models[0].generator
    names = first.class_names or [str(k) for k in range(first.num_classes)]
    choices: list[tuple[str, int | str]] = [("each class in turn", IN_TURN)]
    choices += [(str(name), k) for k, name in enumerate(names)]
    choices += [("no class", NO_CLASS)] if service.bounds.guidable else []
    many = len(names)
    usual = MOST_PICTURES // many * many if 1 < many <= 20 else MOST_PICTURES  # whole rows
    title = " beside ".join(one.name for one in service.models)

    with gr.Blocks(title=f"{title} · α-Flow", analytics_enabled=False, delete_cache=(600, 600)) as page:
        gr.Markdown(f"# {_plain(title)}\nPictures from noise, in one evaluation of a network or a few.")
        with gr.Row():
            label = gr.Dropdown(choices, value=IN_TURN, label="Class", visible=bool(names), elem_id="label")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MOST_SEED, elem_id="seed")
            count = gr.Slider(1, MOST_PICTURES, usual, step=1, label="Pictures", elem_id="count")
        with gr.Row():
            nfe = gr.Slider(1, MOST_STEPS, 1, step=1, label="Steps", elem_id="nfe")
            method = gr.Dropdown(list(METHODS), value="ode", label="Sampler", elem_id="method")
            guidance = gr.Slider(
                *service.bounds.scales, 1, step=0.1, label="Guidance (1: none)", visible=service.bounds.guidable,
                elem_id="guidance",
            )  # fmt: skip
        with gr.Row():
            go = gr.Button("Generate", variant="primary", elem_id="go")
            another = gr.Button("Another seed", elem_id="another")
        outputs: list[Any] = []
        with gr.Row():
            for k, one in enumerate(service.models):
                with gr.Column():
                    outputs.append(
                        gr.Image(
                            type="pil", format="png", label=one.name, interactive=False, elem_id=f"picture-{k}",
                            elem_classes="picture", buttons=["download", "fullscreen"],
                        )
                    )  # fmt: skip
                    outputs.append(gr.Markdown("", elem_id=f"time-{k}"))

        async def generate(label: Any, seed: Any, count: Any, nfe: Any, method: Any, guidance: Any) -> list[Any]:
            wish = {"label": label, "seed": seed, "count": count, "nfe": nfe, "method": method}
            wish["guidance"] = guidance if service.bounds.guidable else 1.0
            try:
                drawn = await asyncio.gather(
                    *(service.draw({**wish, "model": k}) for k in range(len(service.models)))
                )
            except UserError as error:
                raise gr.Error(_plain(str(error)), print_exception=False) from None
            return [part for one in drawn for part in _shown(one, int(count))]

        inputs = [label, seed, count, nfe, method, guidance]
        settings: dict[str, Any] = {"show_progress": "hidden", "api_name": False, "concurrency_limit": None}
        go.click(generate, inputs, outputs, api_name="generate", show_progress="hidden", concurrency_limit=None)
        for choice in (label, method):
            choice.input(generate, inputs, outputs, **settings)
        for slider in (count, nfe, guidance):
            slider.release(generate, inputs, outputs, **settings)
        seed.submit(generate, inputs, outputs, **settings)
        another.click(lambda: random.randrange(100_000), None, seed, **settings).then(
            generate, inputs, outputs, **settings
        )
        page.load(generate, inputs, outputs, **settings)
    return page


def _shown(drawn: Drawn, count: int) -> tuple[Image.Image, str]:
    each = f", {1000 * drawn.seconds / count:.2f} ms each" if count > 1 else ""
    picture = Image.open(io.BytesIO(drawn.png))
    # Gradio's file of a picture is named by its bytes, and would be written anew under somebody who is reading it.
    picture.info["drawn"] = uuid.uuid4().hex
    return picture, f"{1000 * drawn.seconds:.1f} ms{each}"


def _plain(text: str) -> str:
    """Text that a page shows as it is, rather than as HTML or Markdown."""
    for sign, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, instead)
    return text
