"""`python -m backend evaluate | generate | compare | plot | report`: what comes after training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from backend.cli.settings import Plugins, RunId, RunsDir
from backend.config import load_plugins
from backend.errors import InputError
from backend.runs import RunStore

app = typer.Typer(help="Evaluate, generate, compare, plot, report.", no_args_is_help=True)
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def show(title: str, rows: list[list[Any]], head: list[str]) -> None:
    """Print one table; text is shown as it is, without markup."""
    from backend.analysis.report import text_of

    table = Table(title=Text(title))
    for cell in head:
        table.add_column(Text(str(cell)))
    for row in rows:
        table.add_row(*[Text(text_of(cell)) for cell in row])
    Console().print(table)


@app.command()
def evaluate(
    run: RunId,
    images: Annotated[int | None, typer.Option(help="Images each of base and tuned model; published figures use 1024.")] = None,
    checkpoint: Annotated[str, typer.Option(help="Name, episode number, best or last; or an average of several: best+last, last+OTHER_RUN:last.")] = "last",
    device: Device = "auto",
    guidance: Annotated[list[float] | None, typer.Option(help="Constant guidance to beat, repeatable; by default 0.6 and 1.4 times the run's own.", min=1, max=50)] = None,
    real_images: Annotated[int | None, typer.Option(help="Held-out renders; 2000 at the published number of images, else 400.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an evaluation of another checkpoint, or of more images.")] = False,
    plugin: Plugins = None,
    runs_dir: RunsDir = None,
) -> None:
    """Compare base and tuned model on the test prompts with judges that the reward never saw."""
    from backend.evaluation.evaluate import evaluate_run
    from backend.evaluation.results import LEVELS, evaluated_name, lost_by

    load_plugins(plugin or [])
    found = RunStore(runs_dir).find(run)
    if found.evaluation() and not replace:
        lost = lost_by(found, evaluated_name(found, checkpoint), found.config.eval_images if images is None else images)
        if lost:
            raise InputError(f"{lost} With --replace it is replaced.")
    with Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=1.0)
        result = evaluate_run(
            found, images, checkpoint, device, tuple(guidance) if guidance else None, real_images, progress=lambda what, share: bar.update(task, description=what, completed=share)
        )
    rows = [[row.get(name) for name in ("measure", *LEVELS, "estimate", "low", "high")] for row in result["table"]]
    show(f"{found.id}, {result['checkpoint']}, {result['images']} images", rows, ["Measure", *map(str.capitalize, LEVELS), "Change or share", "95 % low", "high"])
    for note in result["notes"]:
        typer.echo(f"- {note}")
    typer.echo(f"wrote {found.evaluation_path}")


@app.command()
def generate(
    prompt: Annotated[str, typer.Option(help="What to draw.")],
    run: Annotated[str, typer.Option(help="Run id, or `latest`; empty draws with the base model.")] = "",
    checkpoint: Annotated[str, typer.Option(help="Name, episode number, best or last; or an average of several: best+last, last+OTHER_RUN:last.")] = "last",
    base_model: Annotated[str, typer.Option(help="Base model where no run is named.")] = "assets/models/crater-tiny",
    seed: Annotated[int, typer.Option(help="Seed of the first image; the others follow.", min=0)] = 0,
    count: Annotated[int, typer.Option(help="Number of images.", min=1, max=4096)] = 4,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; by default the run's.", min=1, max=1000)] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance; by default the run's.", min=1, max=50)] = None,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the PNG files.")] = Path("generated"),
    plugin: Plugins = None,
    runs_dir: RunsDir = None,
) -> None:
    """Draw images with a checkpoint or the base model."""
    from PIL import Image

    from backend.config import make_config
    from backend.evaluation.generate import generate_images

    if not prompt.strip():
        raise InputError("the prompt is empty: say what to draw, as in 'aerial view of bowl mars craters'")
    load_plugins(plugin or [])
    found = RunStore(runs_dir).find(run) if run else None
    seeds = list(range(seed, seed + count))
    images = generate_images([prompt], seeds, found, checkpoint, make_config({"base_model": base_model}), steps, guidance, device)
    try:
        out.mkdir(parents=True, exist_ok=True)
        paths = [out / f"{found.id if found else 'base'}_{number}.png" for number in seeds]
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image).save(path)
    except OSError as error:
        raise InputError(f"folder {out} cannot be written ({error.strerror}): choose another with --out") from error
    typer.echo("\n".join(str(path) for path in paths))


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Two to six run ids.")],
    out: Annotated[Path | None, typer.Option(help="Also write a self-contained HTML page.")] = None,
    plugin: Plugins = None,
    runs_dir: RunsDir = None,
) -> None:
    """Compare runs: convergence, evaluation, settings that differ."""
    from backend.analysis.comparison import MOST_RUNS
    from backend.analysis.report import comparison_html, comparison_tables

    if not 2 <= len(runs) <= MOST_RUNS:
        raise InputError(f"{len(runs)} runs cannot be compared: name 2 to {MOST_RUNS}")
    load_plugins(plugin or [])
    store = RunStore(runs_dir)
    found = [store.find(name) for name in runs]
    for title, rows, head in comparison_tables(found):
        show(title, rows, head)
    if out is not None:
        _write(out, comparison_html(found))


@app.command()
def plot(
    run: Annotated[str, typer.Argument(help="Run id; by default the newest.")] = "latest",
    out: Annotated[Path | None, typer.Option(help="Folder; by default the run's own plots.")] = None,
    png: Annotated[bool, typer.Option(help="Also write PNG files.")] = False,
    plugin: Plugins = None,
    runs_dir: RunsDir = None,
) -> None:
    """Plot rewards, losses, gradients, entropy, memory, feature evolution and samples of a run."""
    from backend.analysis.comparison import convergence
    from backend.analysis.feature_figures import sample_grid
    from backend.analysis.report import figures_of, page_of
    from backend.analysis.static import write_png

    load_plugins(plugin or [])
    found = RunStore(runs_dir).find(run)
    folder = out or found.plots_dir
    figures = figures_of(found)
    _write(folder / "plots.html", page_of(f"Run {found.id}", [], figures))
    for name, figure in figures.items():
        _write(folder / f"{name}.json", json.dumps(figure))
        if png:
            typer.echo(f"wrote {write_png(figure, folder / f'{name}.png')}")
    if grid := sample_grid(found):
        grid.save(folder / "samples.png")
        typer.echo(f"wrote {folder / 'samples.png'}")
    show("Summary", [[key.replace("_", " "), value] for key, value in convergence(found).items()], ["What", "Value"])


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Run id; by default the newest.")] = "latest",
    out: Annotated[Path | None, typer.Option(help="Folder; by default the run's own plots.")] = None,
    plugin: Plugins = None,
    runs_dir: RunsDir = None,
) -> None:
    """Write the run's report as one HTML file and one Markdown file."""
    from backend.analysis.report import write_report

    load_plugins(plugin or [])
    try:
        paths = write_report(RunStore(runs_dir).find(run), out)
    except OSError as error:
        raise InputError(f"the report cannot be written ({error.strerror}): choose another folder with --out") from error
    typer.echo("\n".join(f"wrote {path}" for path in paths))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): choose another place with --out") from error
    typer.echo(f"wrote {path}")
