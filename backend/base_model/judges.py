"""Commands behind `base-model attributes` and `base-model measure`."""

from __future__ import annotations

import json
from pathlib import Path

from backend.base_model.card import loss_figure, machine, sheet, training_cost, write_card
from backend.base_model.data import load_dataset
from backend.base_model.measure import generate, held_out, measure_model, to_tensor
from backend.features.load import load_extractor
from backend.reference.captions import attribute_targets, caption
from backend.reference.prompts import load_prompts
from backend.rewards.attributes_model import FOLDER, AttributeModel, fit_attribute_model

RESULT = Path("docs/results/base_model.json")
EXTRACTORS = ("efficientnet_lite0", "efficientnet_lite2")  # one for the reward, another for the judge


def fit_regressors(work: Path, count: int) -> list[tuple[Path, AttributeModel]]:
    """Fit the reward's and the judge's regressors on disjoint halves of the training renders and write them."""
    images, params = load_dataset(work / "renders", count)
    written = []
    for part, name in enumerate(EXTRACTORS):
        index = slice(part * count // 2, (part + 1) * count // 2)
        model = fit_attribute_model(to_tensor(images[index]), [attribute_targets(p) for p in params[index]], load_extractor(name))
        written.append((model.save(FOLDER / f"{name}.safetensors"), model))
    return written


def measure_and_write(folder: Path, work: Path, count: int) -> Path:
    """Measure, then write result file, sheet, loss curves and card."""
    figures = measure_model(folder, work, load_prompts("assets/prompts/test.txt"), count) | {
        "machine": machine(),
        "command": f"python -m backend base-model measure --images {count}",
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    _, params = held_out(64)
    sheet(generate(folder, [caption(p) for p in params], seed=500_000)).save(folder / "sheet.png", optimize=True)
    loss_figure(work / "log.jsonl", folder / "losses.png")
    recipe = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return write_card(folder, figures, recipe, training_cost(work / "log.jsonl"))
