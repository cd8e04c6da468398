"""What `base-model measure` leaves behind: figures, their history, sheets and the model card."""

from __future__ import annotations

import json
from pathlib import Path

from backend.base_model.card import machine, renders_seen, write_card
from backend.base_model.judges import judge_versions
from backend.base_model.measure import SEED, generate, held_out, measure_model
from backend.base_model.recipe import MODEL, training_record, weights_sha256
from backend.base_model.sheets import PICTURES, read_crops, save_sheet, sheet, side_by_side, spread_over
from backend.errors import InputError
from backend.reference.captions import caption
from backend.reference.prompts import load_prompts

RESULT = Path("docs/results/base_model.json")
HISTORY = Path("docs/results/base_model_history.json")
SHEET = Path("docs/figures/base_model_sheet.jpg")


def places(folder: Path) -> tuple[Path, Path, Path]:
    """Where figures, their history and the sheet of a model go: the project's records for the embedded model, its own folder for any other."""
    if folder.resolve() == MODEL.resolve():
        return RESULT, HISTORY, SHEET
    return folder / "measured.json", folder / "measured_history.json", folder / "sheet_beside_renders.jpg"


def measure_and_write(folder: Path, work: Path, count: int) -> Path:
    """Measure, then write result file, history, sheets and card. What the training took and its loss curves are as it left them in the folder.

    Raises:
        InputError: the folder holds no trained model, or there are too few training renders; nothing is written then.
    """
    recipe, (result, history_path, sheet_path) = training_record(folder), places(folder)
    if not recipe:
        raise InputError(f"{folder} has no training.json: name the folder of a pipeline that `base-model train` wrote")
    figures = measure_model(folder, work, load_prompts("assets/prompts/test.txt"), count, renders_seen(recipe)) | {
        "machine": machine(),
        "command": f"python -m backend base-model measure --images {count}" + ("" if result == RESULT else f" --model {folder}"),
        "weights_sha256": weights_sha256(folder),
        "judges": judge_versions(),
    }
    blocks = rendered_and_generated(folder)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    history = remember(figures, history_path)
    save_sheet(side_by_side(blocks), sheet_path)
    sheet(blocks["generated"]).save(folder / "sheet.png", optimize=True)
    return write_card(folder, history, recipe, judge_versions(), sheet_path)


def remember(figures: dict, path: Path) -> list[dict]:
    """Append figures to the history of versions, oldest first; measuring the same weights again replaces their entry."""
    history = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    if history and history[-1]["weights_sha256"] == figures["weights_sha256"]:
        history.pop()
    history.append({"version": len(history) + 1} | figures)
    path.write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    return history


def rendered_and_generated(folder: Path) -> dict:
    """64 held-out renders and what the model draws for their captions, none left out: title -> uint8 [64, SIZE, SIZE, 3]."""
    renders, params = held_out(PICTURES)
    return {"rendered": renders, "generated": generate(folder, [caption(p) for p in params], seed=SEED)}


def sheet_with_crops(folder: Path, crops: Path, out: Path) -> Path:
    """Rendered, generated and real pictures side by side.

    Args:
        folder: the pipeline.
        crops: folder of real crops; 64 of them at even steps are shown.
        out: picture to write; real crops do not belong into the project, so choose a place outside of it.

    Raises:
        InputError: no crops, or the picture cannot be written.
    """
    _, names = read_crops(crops)
    real, _ = read_crops(crops, spread_over(names, PICTURES))
    return save_sheet(side_by_side(rendered_and_generated(folder) | {f"real ({crops.name})": real}), out)
