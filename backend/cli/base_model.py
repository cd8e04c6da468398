"""`python -m backend base-model`: train, fine-tune and measure the embedded model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train and measure the embedded model.", no_args_is_help=True)


@app.command()
def render(images: Annotated[int, typer.Option(help="Rendered training images.", min=1)] = 12_288) -> None:
    """Render the training set (resumes)."""
    from backend.base_model.recipe import Recipe
    from backend.base_model.recipe import render as render_stage

    render_stage(replace(Recipe(), images=images))


@app.command()
def train(
    images: Annotated[int | None, typer.Option(help="Rendered training images.", min=1)] = None,
    decoder_steps: Annotated[int | None, typer.Option(help="Steps of the decoder; 0 leaves it as it is.", min=0)] = None,
    denoiser_steps: Annotated[int | None, typer.Option(help="Steps of the UNet and text encoder.", min=1)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder of the pipeline.")] = Path("assets/models/crater-tiny"),
    start_from: Annotated[Path | None, typer.Option(help="Folder of a pipeline of this recipe whose weights are trained further.")] = None,
    work: Annotated[Path, typer.Option(help="Folder of renders and progress.")] = Path(".cache/base_model"),
) -> None:
    """Train the embedded model from the renderer; interrupted, the same command goes on."""
    import torch

    from backend.base_model.recipe import Recipe, cuda_recipe, run_recipe

    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    recipe = cuda_recipe() if chosen.startswith("cuda") else Recipe()
    given = {"images": images, "decoder_steps": decoder_steps, "denoiser_steps": denoiser_steps}
    recipe = replace(recipe, device=chosen, **{k: v for k, v in given.items() if v is not None})
    typer.echo(f"wrote {run_recipe(recipe, work, out, start_from)}")


@app.command()
def attributes(
    images: Annotated[int, typer.Option(help="Training renders that the regressors are fitted on.", min=50)] = 8192,
    work: Annotated[Path, typer.Option(help="Folder of renders and progress.")] = Path(".cache/base_model"),
) -> None:
    """Fit the attribute regressors on renders (needs `render` first)."""
    from backend.base_model.judges import fit_regressors

    for path, model in fit_regressors(work, images):
        typer.echo(f"wrote {path}: mean held-out R2 {float(model.r2.mean()):.3f}")


@app.command()
def measure(
    images: Annotated[int, typer.Option(help="Generated images and held-out renders.", min=100)] = 1000,
    model: Annotated[Path, typer.Option(help="Folder of the pipeline.")] = Path("assets/models/crater-tiny"),
    work: Annotated[Path, typer.Option(help="Folder of renders and progress.")] = Path(".cache/base_model"),
) -> None:
    """Measure the embedded model and write its card, sheet, loss curves and docs/results/base_model.json."""
    from backend.base_model.judges import measure_and_write

    typer.echo(f"wrote {measure_and_write(model, work, images)}")
