"""`python -m backend base-model`: train, fine-tune and measure the embedded model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.errors import InputError

if TYPE_CHECKING:
    from backend.base_model.finetune import FineTuning

app = typer.Typer(help="Train and measure the embedded model.", no_args_is_help=True)


@app.command()
def render(
    images: Annotated[int, typer.Option(help="Rendered training images.", min=1)] = 20_480,
    work: Annotated[Path, typer.Option(help="Folder of renders and progress.")] = Path(".cache/base_model"),
) -> None:
    """Render the training set (resumes)."""
    from backend.base_model.recipe import Recipe
    from backend.base_model.recipe import render as render_stage

    render_stage(replace(Recipe(), images=images), work)


@app.command()
def train(
    images: Annotated[Path | None, typer.Option(help="Folder or .zip of your own crops: fine-tunes the embedded model on them.")] = None,
    captions: Annotated[Path | None, typer.Option(help="Their captions: .jsonl or .csv with file_name and text; else metadata.jsonl or .csv in the folder.")] = None,
    renders: Annotated[int | None, typer.Option(help="Rendered images to train on, or to mix in with your own.", min=1)] = None,
    renders_share: Annotated[float, typer.Option(help="With --images: share of renders in a batch, against forgetting.")] = 0.25,
    decoder_steps: Annotated[int | None, typer.Option(help="Steps of the decoder; 0 leaves it as it is.", min=0)] = None,
    denoiser_steps: Annotated[int | None, typer.Option(help="Steps of the UNet and text encoder; 0 leaves them as they are (not with --images).", min=0)] = None,
    sharpen_steps: Annotated[int | None, typer.Option(help="Steps of the decoder against a discriminator; 0 leaves it as it is.", min=0)] = None,
    finish_steps: Annotated[int | None, typer.Option(help="Steps of the denoiser's last sampler steps against a discriminator; 0 leaves them as they are.", min=0)] = None,
    channels: Annotated[int | None, typer.Option(help="Latent channels: 24 from nothing; more than --start-from has are added to it (not with --images).", min=1, max=64)] = None,
    seed: Annotated[int, typer.Option(help="Of renders, weights, batches and noise: another one than before trains a pipeline further on other batches.", min=0)] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder of the pipeline; assets/models/crater-tiny, or models/NAME with --images.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --images: replace the pipeline that is in the folder.")] = False,
    start_from: Annotated[Path | None, typer.Option(help="Pipeline of this recipe whose weights are trained further; with --images the embedded model.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of progress (and of renders, without --images).")] = None,
) -> None:
    """Train the embedded model from the renderer, or fine-tune it on your own pictures; interrupted, the same command goes on."""
    from backend.base_model.recipe import MODEL, WORK, Recipe, cuda_recipe, run_recipe

    chosen = _device(device)
    given = {"decoder_steps": decoder_steps, "denoiser_steps": denoiser_steps, "sharpen_steps": sharpen_steps, "finish_steps": finish_steps}
    numbers = {k: v for k, v in given.items() if v is not None} | {"seed": seed}
    if images is not None:
        if channels is not None:
            raise InputError(f"--channels {channels} is for training on renders: your own pictures keep the model's channels")
        from backend.base_model.finetune import FineTuning

        plan = FineTuning(device=chosen, renders_share=renders_share, **numbers | ({} if renders is None else {"renders": renders}))
        _fine_tune(images, captions, plan, out or Path("models") / images.stem, start_from or MODEL, work, overwrite)
        return
    if captions is not None:
        raise InputError(f"--captions {captions} belongs to your own pictures: name their folder with --images")
    recipe = cuda_recipe() if chosen.startswith("cuda") else Recipe()
    recipe = replace(recipe, device=chosen, channels=channels, **numbers | ({} if renders is None else {"images": renders}))
    typer.echo(f"wrote {run_recipe(recipe, work or WORK, out or MODEL, start_from)}")


def _device(name: str) -> str:
    """The device that a name stands for, before anything is rendered for it.

    Raises:
        InputError: no such name, or no such device here.
    """
    from backend.features.device import resolve_device

    return str(resolve_device(name))


def _fine_tune(images: Path, captions: Path | None, plan: FineTuning, out: Path, start_from: Path, work: Path | None, overwrite: bool) -> None:
    """Read the pictures, say what is odd about them, fine-tune, say what it did to the loss."""
    import json

    from backend.base_model.finetune import fine_tune
    from backend.base_model.pictures import load_pictures

    pictures = load_pictures(images, captions)
    typer.echo(f"{len(pictures.images)} pictures with captions from {images}")

    def say(note: str) -> None:
        typer.echo(f"note: {note}", err=True)

    for note in pictures.notes:
        say(note)
    fine_tune(pictures, plan, out, start_from=start_from, work=work, overwrite=overwrite, note=say)
    record = json.loads((out / "training.json").read_text(encoding="utf-8"))
    for name, value in record["loss_before"].items():
        typer.echo(f"loss on {name}: {value:.4f} before, {record['loss_after'][name]:.4f} after")
    typer.echo(f"wrote {out}: train on it with `python -m backend train --base-model {out}`")


@app.command()
def attributes(
    images: Annotated[int, typer.Option(help="Training renders that the regressors are fitted on.", min=100)] = 12_288,
    only: Annotated[str | None, typer.Option(help="Name of one regressor; else all are fitted.")] = None,
    work: Annotated[Path, typer.Option(help="Folder of renders and progress.")] = Path(".cache/base_model"),
) -> None:
    """Fit the attribute regressors and the finish's teacher on renders and record the judges' hashes (needs `render` first)."""
    from backend.base_model.judges import RECORD, fit_regressors

    for path, model in fit_regressors(work, images, only):
        typer.echo(f"wrote {path}: mean held-out R2 {float(model.r2.mean()):.3f}")
    typer.echo(f"wrote {RECORD}")


@app.command()
def judges(
    real: Annotated[Path, typer.Option(envvar="REAL_CROPS_DIR", help="Folder of the real crops that docs/results/real_crop_labels.csv names.")],
    images: Annotated[int, typer.Option(help="Held-out renders.", min=100)] = 1000,
    work: Annotated[Path, typer.Option(help="Folder of renders and progress.")] = Path(".cache/base_model"),
) -> None:
    """Measure the judges on held-out renders and against labels of real crops; writes docs/results/judges.json and .md."""
    from backend.base_model.judges import judge_the_judges, write_judges

    command = f"REAL_CROPS_DIR=… python -m backend base-model judges --images {images}"
    typer.echo(f"wrote {write_judges(judge_the_judges(work, real, images) | {'command': command})}")


@app.command()
def sheet(
    real: Annotated[Path, typer.Option(envvar="REAL_CROPS_DIR", help="Folder of real crops.")],
    model: Annotated[Path, typer.Option(help="Folder of the pipeline.")] = Path("assets/models/crater-tiny"),
    out: Annotated[Path, typer.Option(help="Picture to write; real crops stay out of the project, so it lies in the cache.")] = Path(".cache/base_model_and_real.jpg"),
) -> None:
    """Lay 64 rendered, 64 generated and 64 real pictures side by side."""
    from backend.base_model.publish import sheet_with_crops

    typer.echo(f"wrote {sheet_with_crops(model, real, out)}")


@app.command()
def measure(
    images: Annotated[int, typer.Option(help="Generated images and held-out renders.", min=100)] = 1000,
    model: Annotated[Path, typer.Option(help="Folder of the pipeline.")] = Path("assets/models/crater-tiny"),
    work: Annotated[Path, typer.Option(help="Folder of renders and progress.")] = Path(".cache/base_model"),
) -> None:
    """Measure the embedded model; writes its card, sheets and docs/results/base_model.json with its history."""
    from backend.base_model.publish import measure_and_write

    typer.echo(f"wrote {measure_and_write(model, work, images)}")


@app.command()
def average(
    models: Annotated[list[Path], typer.Argument(help="Folders of two or more pipelines that were trained from one another or from the same one.")],
    out: Annotated[Path, typer.Option(help="Folder of the new pipeline.")],
) -> None:
    """Write the pipeline whose weights are the mean of those of several."""
    from backend.base_model.average import average as average_of

    typer.echo(f"wrote {average_of(models, out)}")


@app.command()
def compare(
    models: Annotated[list[Path], typer.Argument(help="Folders of pipelines.")],
    images: Annotated[int, typer.Option(help="Pictures that each draws, for the same held-out captions.", min=64, max=1000)] = 320,
    steps: Annotated[int, typer.Option(help="Sampler steps.", min=1)] = 20,
) -> None:
    """Compare pipelines on a few captions (a minute or two each on one core): Fréchet distances and adherence, as Markdown."""
    from backend.base_model.compare import compare as rows_of

    for index, row in enumerate(rows_of(models, images, steps)):
        if index == 0:
            typer.echo("| " + " | ".join(row) + " |\n|" + " --- |" * len(row))
        typer.echo("| " + " | ".join(str(value) for value in row.values()) + " |")
