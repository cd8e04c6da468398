"""`python -m backend reference`: make, import, check and look at reference sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make, import, check and look at reference sets.", no_args_is_help=True)
fetch_app = typer.Typer(help="Download real craters and make a reference set of them.", no_args_is_help=True)
app.add_typer(fetch_app, name="fetch")

DEFAULT = Path("reference_data")
Folder = Annotated[Path, typer.Argument(help="Folder of the reference set.")]
Extractor = Annotated[str, typer.Option(help="Feature extractor; see `python -m backend config` for the names.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the reference set that is there.")]


def _bar(description: str):
    """A progress bar on standard error, in items or bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(TextColumn(description), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=Console(stderr=True))
    task = bar.add_task(description, visible=False)  # seen from the first step on, if there is one
    return bar, lambda done, total: bar.update(task, completed=done, total=total, visible=True)


@app.command()
def build(
    target: Folder = DEFAULT,
    pool: Annotated[int, typer.Option(help="Renders to choose from.", min=2)] = 3000,
    count: Annotated[int, typer.Option(help="Images to choose.", min=2)] = 73,
    ground: Annotated[int, typer.Option(help="How many of them are ground views.", min=0)] = 20,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.", min=0)] = 73,
    size: Annotated[int, typer.Option(help="Side in pixels.", min=32, max=2048)] = 128,
    extractor: Extractor = "efficientnet_lite0",
    overwrite: Overwrite = False,
) -> None:
    """Render the pool, choose the simulated set and write it; bit for bit the same each time (two minutes)."""
    from backend.reference.build import build_reference

    made = build_reference(target, pool=pool, count=count, ground=ground, seed=seed, size=size, extractor=extractor, overwrite=overwrite)
    typer.echo(f"wrote {target}: {made.label}, sha256 of all pixels {made.digest}")


@app.command("images-npz")
def images_npz(folder: Folder = DEFAULT, output: Annotated[Path | None, typer.Option(help="NPZ to write; else reference_crater_images.npz in the folder.")] = None) -> None:
    """Write the images to an NPZ."""
    from backend.reference.dataset import load_reference
    from backend.reference.export import IMAGES_NPZ, save_images_npz

    typer.echo(f"wrote {save_images_npz(load_reference(folder), output or folder / IMAGES_NPZ)}")


@app.command()
def features(
    folder: Folder = DEFAULT,
    extractor: Extractor = "efficientnet_lite0",
    output: Annotated[Path | None, typer.Option(help="NPZ to write; else reference_crater_features_EXTRACTOR.npz in the folder.")] = None,
    device: Device = "cpu",
) -> None:
    """Compute the images' features and write them to an NPZ."""
    from backend.reference.dataset import load_reference
    from backend.reference.export import features_npz_name, save_features_npz

    typer.echo(f"wrote {save_features_npz(load_reference(folder), extractor, output or folder / features_npz_name(extractor), device)}")


@app.command()
def plot(
    folder: Folder = DEFAULT,
    extractor: Extractor = "efficientnet_lite0",
    output: Annotated[Path | None, typer.Option(help="Folder for the plots; else plots in the set's folder.")] = None,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of t-SNE.", min=0)] = 0,
) -> None:
    """Draw PCA, t-SNE and pairwise distances of the features (interactive HTML and PNG)."""
    from backend.reference.dataset import load_reference
    from backend.reference.export import plot_features

    for path in plot_features(load_reference(folder), extractor, output or folder / "plots", device, seed):
        typer.echo(f"wrote {path}")


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="Folder, .zip or .npz of images.")],
    target: Annotated[Path, typer.Argument(help="New folder for the reference set.")],
    size: Annotated[int, typer.Option(help="Side in pixels of the square images.")] = 128,
    captions: Annotated[Path | None, typer.Option(help="CSV or JSON Lines with file and caption; else captions.csv in the source.")] = None,
    name: Annotated[str, typer.Option(help="Name of the set.")] = "",
    simulated: Annotated[bool, typer.Option("--simulated", help="The images are no photographs.")] = False,
    licence: Annotated[str, typer.Option(help="Licence of the images, kept with them.")] = "",
    citation: Annotated[str, typer.Option(help="Whom to cite, kept with them.")] = "",
    drop_near: Annotated[bool, typer.Option("--drop-near", help="Leave out near duplicates too.")] = False,
    max_files: Annotated[int, typer.Option(help="Most files that are read.", min=1)] = 5000,
    overwrite: Overwrite = False,
) -> None:
    """Make a reference set from images of your own, with a report of what was refused and why."""
    from backend.reference.archives import Limits
    from backend.reference.importing import import_reference

    bar, progress = _bar("importing")
    with bar:
        report = import_reference(
            source,
            target,
            size=size,
            captions=captions,
            name=name,
            simulated=simulated,
            licence=licence,
            citation=citation,
            drop_near=drop_near,
            overwrite=overwrite,
            limits=Limits(files=max_files),
            progress=progress,
        )
    for line in report.lines():
        typer.echo(line)
    typer.echo(f"wrote {target}: train with it by `--reference {target}`")


@app.command()
def stats(
    folder: Folder = DEFAULT,
    extractor: Annotated[str, typer.Option(help="Feature extractor; empty leaves the feature figures out.")] = "efficientnet_lite0",
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a reference set is like: light, colour, spread, near duplicates, captions."""
    import json

    from backend.reference.dataset import load_reference
    from backend.reference.embedding import image_features
    from backend.reference.statistics import describe_features, describe_images

    reference = load_reference(folder)
    figures = describe_images(reference)
    if extractor:
        values, described = image_features(reference.images, extractor, device)
        figures["features"] = {**described, **describe_features(values)}
    if as_json:
        typer.echo(json.dumps(figures, indent=1, ensure_ascii=False))
        return
    typer.echo(reference.label)
    rows = {**{key: value for key, value in figures.items() if key != "features"}, **{f"features: {key}": value for key, value in figures.get("features", {}).items()}}
    for key, value in rows.items():
        typer.echo(f"  {key.replace('_', ' '):32} {f'{value:.4g}' if isinstance(value, float) else value}")


@app.command()
def validate(
    folder: Folder = DEFAULT,
    rerender: Annotated[bool, typer.Option("--rerender", help="Also draw each simulated image again and compare its pixels.")] = False,
) -> None:
    """Compare every image with its SHA-256 in the manifest."""
    from backend.reference.build import rerender_differences
    from backend.reference.dataset import load_reference, validate_reference

    problems = validate_reference(folder)
    if rerender and not problems:
        problems = [
            f"{file} is drawn differently by this version or machine: rebuild with `python -m backend reference build --overwrite`" for file in rerender_differences(folder)
        ]
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"sound: {load_reference(folder).label}" + (", drawn again bit for bit" if rerender else ""))


@fetch_app.command()
def hirise(
    target: Annotated[Path, typer.Argument(help="New folder for the reference set.")] = Path("reference_hirise"),
    count: Annotated[int, typer.Option(help="Craters to choose.", min=2)] = 73,
    size: Annotated[int, typer.Option(help="Side in pixels.", min=32, max=227)] = 128,
    extractor: Extractor = "efficientnet_lite0",
    cache: Annotated[Path, typer.Option(help="Folder that keeps the archive (986 MB).")] = Path(".cache/hirise"),
    url: Annotated[str | None, typer.Option(help="Address of the record in Zenodo's API, or of a mirror with the same answer.")] = None,
    archive: Annotated[Path | None, typer.Option(help="An archive that you have downloaded already.")] = None,
    md5: Annotated[str | None, typer.Option(help="Its MD5 from the record's page.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Choose diverse real craters from JPL's labelled HiRISE set, version 3 (DOI 10.5281/zenodo.2538136; CC BY 4.0)."""
    from backend.reference.embedding import embedder
    from backend.reference.hirise import RECORD_URL, fetch_hirise

    bar, progress = _bar("downloading")
    with bar:
        report = fetch_hirise(
            target,
            embedder(extractor),
            cache=cache,
            record_url=url or RECORD_URL,
            archive=archive,
            md5=md5,
            count=count,
            size=size,
            overwrite=overwrite,
            progress=progress,
            features=extractor,
        )
    for line in report:
        typer.echo(line)
    typer.echo(f"train with it by `--reference {target}`")
