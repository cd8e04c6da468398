"""What `base-model measure` leaves behind: figures, their history, sheets, loss curves and the model card."""

from __future__ import annotations

import json
from pathlib import Path

from backend.base_model.card import loss_figure, machine, training_cost, write_card
from backend.base_model.judges import judge_versions
from backend.base_model.measure import SEED, generate, held_out, measure_model
from backend.base_model.recipe import weights_sha256
from backend.base_model.sheets import PICTURES, read_crops, save_sheet, sheet, side_by_side, spread_over
from backend.reference.captions import caption
from backend.reference.prompts import load_prompts

RESULT = Path("docs/results/base_model.json")
HISTORY = Path("docs/results/base_model_history.json")
SHEET = Path("docs/figures/base_model_sheet.jpg")


def measure_and_write(folder: Path, work: Path, count: int) -> Path:
    """Measure, then write result file, history, sheets, loss curves and card."""
    figures = measure_model(folder, work, load_prompts("assets/prompts/test.txt"), count) | {
        "machine": machine(),
        "command": f"python -m backend base-model measure --images {count}",
        "weights_sha256": weights_sha256(folder),
        "judges": judge_versions(),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    history = remember(figures, HISTORY)
    blocks = rendered_and_generated(folder)
    save_sheet(side_by_side(blocks), SHEET)
    sheet(blocks["generated"]).save(folder / "sheet.png", optimize=True)
    loss_figure(work / "log.jsonl", folder / "losses.png")
    recipe = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return write_card(folder, history, recipe, training_cost(work / "log.jsonl"), judge_versions())


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
