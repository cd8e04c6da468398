"""The judges of the embedded model: fitting, versions, accuracy on held-out renders, agreement with labels made by looking."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from backend.base_model.agreement import LABELS, SECOND_LABELS, agreement, read_labels
from backend.base_model.critic import BLOCKS as SEEN_BLOCKS
from backend.base_model.data import load_dataset
from backend.base_model.measure import group_r_squared, held_out, to_tensor, truth
from backend.base_model.readers import BLOCKS, REGIONS_FILE, RegionReader, disturbed, half_disturbed, region_features
from backend.base_model.sheets import read_crops
from backend.base_model.teacher import TEACHER_FILE
from backend.errors import InputError
from backend.evaluation import image_statistics
from backend.evaluation.adherence import Reader
from backend.features.download import file_sha256
from backend.features.load import Standardiser, load_extractor
from backend.reference.captions import ATTRIBUTES
from backend.rewards.attributes_model import FOLDER, AttributeModel, fit_on_features

RECORD = FOLDER / "judges.json"
RESULT = Path("docs/results/judges.json")
EXTRACTORS = ("efficientnet_lite0", "efficientnet_lite2")  # one for the reward, another for the judge
REGIONS = REGIONS_FILE.stem
TEACHER = TEACHER_FILE.stem
REGRESSORS = {  # name: its network, the blocks whose regions it reads (None: the network's features of the whole picture), its share of the renders
    EXTRACTORS[0]: (EXTRACTORS[0], None, (0.0, 0.5)),
    EXTRACTORS[1]: (EXTRACTORS[1], None, (0.5, 1.0)),
    REGIONS: (EXTRACTORS[0], BLOCKS, (0.0, 1.0)),
    TEACHER: (EXTRACTORS[1], SEEN_BLOCKS, (0.0, 1.0)),
}
STATISTICS = "image_statistics"
STATISTICS_RENDERS = 3000  # 44 numbers an image need no more


def fit_regressors(work: Path, count: int, only: str | None = None) -> Iterator[tuple[Path, AttributeModel]]:
    """Fit the regressors on training renders, every second of them disturbed, write them and record the judges' hashes.

    The reward's and the judge's see disjoint halves; the card's reader of regions and the teacher of the adversarial finish see all.

    Args:
        work: folder with the training renders.
        count: renders.
        only: name of the one to fit; None fits all.

    Raises:
        InputError: too few renders, or no regressor of that name.
    """
    if only not in (None, *REGRESSORS):
        raise InputError(f"no regressor is called {only!r}: they are {', '.join(REGRESSORS)}")
    images, params = load_dataset(work / "renders", count)
    for name, (extractor, blocks, share) in REGRESSORS.items():
        if only not in (None, name):
            continue
        network, part = load_extractor(extractor), slice(*(int(edge * count) for edge in share))
        look = network if blocks is None else partial(region_features, network, blocks=blocks)
        model = fit_on_features(in_parts(half_disturbed(images[part], seed=31), look), truth(params[part]), network)
        path = model.save(FOLDER / f"{name}.safetensors")
        if name != TEACHER:  # who is taught by it cannot be judged by it
            _record(name, {"network": model.extractor, "network_sha256": model.sha256, "renders": len(images[part])})
        yield path, model


def _record(name: str, facts: dict) -> None:
    """Put the hash of every judge into judges.json, with the facts of the one that was fitted."""
    kept = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    kept[name] = facts
    record = {judge: kept.get(judge, {}) | {"sha256": sha256} for judge, sha256 in judge_versions().items()}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def in_parts(images: np.ndarray, look: Callable[[torch.Tensor], torch.Tensor], size: int = 256) -> torch.Tensor:
    """`look` at uint8 images [N, h, w, 3] as float tensors of `size` images at a time, which spares gigabytes: [N, D]."""
    return torch.cat([look(to_tensor(images[i : i + size])) for i in range(0, len(images), size)])


def judge_versions() -> dict[str, str]:
    """SHA-256 of each judge: of the regressors' files, and of the source of the judge without a network."""
    files = {name: FOLDER / f"{name}.safetensors" for name in (*EXTRACTORS, REGIONS)} | {STATISTICS: Path(image_statistics.__file__)}
    return {name: file_sha256(path) for name, path in files.items() if path.is_file()}


class Statistics:
    """Ridge readers on measurements without a network, fitted here since they cost seconds.

    Args:
        images: uint8 [N, h, w, 3] renders.
        targets: [N, A] their attributes.
    """

    def __init__(self, images: np.ndarray, targets: np.ndarray) -> None:
        raw = torch.from_numpy(self._raw(images))
        self.standardiser = Standardiser.fit(raw)
        self.reader = Reader(self.standardiser.transform(raw).numpy(), targets)

    @staticmethod
    def _raw(images: np.ndarray) -> np.ndarray:
        return np.concatenate([image_statistics.crater_attributes(images), image_statistics.wavelet_statistics(images)], axis=1)

    def read(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, h, w, 3] -> [N, A]."""
        return self.reader.read(self.standardiser.transform(torch.from_numpy(self._raw(images))).numpy())


def readings(images: np.ndarray, statistics: Statistics) -> dict[str, np.ndarray]:
    """What every judge reads in uint8 images [N, h, w, 3]: name -> [N, A]."""
    tensor = to_tensor(images)
    found = {name: AttributeModel.load(FOLDER / f"{name}.safetensors").predict(tensor).numpy() for name in EXTRACTORS}
    return found | {REGIONS: RegionReader.load().read(tensor).numpy(), STATISTICS: statistics.read(images)}


def second_labels(names: list[str], path: Path) -> np.ndarray:
    """What another labeller said of the same crops, [N, A] in the order of `names`.

    Raises:
        InputError: a crop has no row there.
    """
    others, said = read_labels(path)
    missing = [name for name in names if name not in others]
    if missing:
        raise InputError(f"{path} has no row for {missing[0]} ({len(missing)} of {len(names)} are missing): both tables name the same crops")
    return said[[others.index(name) for name in names]]


def judge_the_judges(work: Path, real: Path, count: int = 1000, labels: Path = LABELS, second: Path = SECOND_LABELS) -> dict:
    """Accuracy of each judge on held-out renders and its agreement with labels of real crops, made by looking.

    Args:
        work: folder with the training renders.
        real: folder of the labelled crops.
        count: held-out renders.
        labels: the table of labels.
        second: labels of the same crops by another, against the first ones: what a judge can hope for.

    Raises:
        InputError: labels, crops or regressors are missing.
    """
    names, wanted = read_labels(labels)
    crops, _ = read_crops(real, names)
    also = second_labels(names, second)
    training, training_params = load_dataset(work / "renders", STATISTICS_RENDERS)
    statistics = Statistics(half_disturbed(training, seed=31), truth(training_params).numpy())
    fresh, params = held_out(count)
    true, sets = truth(params), {"held_out_r2": fresh, "disturbed_r2": disturbed(fresh, np.random.default_rng(41))}
    table: dict[str, dict] = {name: {"sha256": sha256} for name, sha256 in judge_versions().items()}
    for key, images in sets.items():
        for name, read in readings(images, statistics).items():
            table[name][key] = group_r_squared(torch.from_numpy(read), true)
    folders = {"all": np.ones(len(names), bool)} | {f: np.array([n.startswith(f"{f}/") for n in names]) for f in dict.fromkeys(n.rpartition("/")[0] for n in names) if f}
    for name, read in readings(crops, statistics).items():
        rng = np.random.default_rng(43)
        table[name]["agreement"] = {folder: agreement(read[rows], wanted[rows], rng) for folder, rows in folders.items()}
    people = {folder: agreement(also[rows], wanted[rows], np.random.default_rng(43)) for folder, rows in folders.items()}
    known = {"labels": str(labels), "labels_sha256": file_sha256(labels), "second_labels": str(second), "second_labels_sha256": file_sha256(second)}
    return {"judges": table, "labellers": people, "held_out_renders": count, "labelled_crops": len(names)} | known


def write_judges(figures: dict) -> Path:
    """Write docs/results/judges.json and the table beside it."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    RESULT.with_suffix(".md").write_text(judges_markdown(figures), encoding="utf-8")
    return RESULT


def judges_markdown(figures: dict) -> str:
    """The tables of accuracy and agreement."""
    judges = figures["judges"]
    groups = list(dict.fromkeys(name.partition(":")[0] for name in ATTRIBUTES))
    lines = [
        "# The judges",
        "",
        f"`{figures['command']}`, {figures['held_out_renders']} held-out renders, {figures['labelled_crops']} real crops labelled by looking "
        "([labels](real_crop_labels.csv), without the images).",
        "",
        "R² on held-out renders (in brackets: on copies with a little blur, contrast, brightness and grain):",
        "",
        "| attribute | " + " | ".join(judges) + " |",
        "|---|" + "---:|" * len(judges),
        *(f"| {g} | " + " | ".join(f"{j['held_out_r2'][g]:.2f} ({j['disturbed_r2'][g]:.2f})" for j in judges.values()) + " |" for g in groups),
        "",
        "Agreement with the labels, 95 % bootstrap interval over the crops: rank correlation (0 is chance) of size and freshness; "
        "AUC (0.5 is chance) averaged over the words that at least four crops have and four lack. The last column is "
        "[another labeller](real_crop_labels_second.csv) who had not seen the first one's words, on the crops that both spoke of (their number after it).",
        "",
    ]
    for folder in next(iter(judges.values()))["agreement"]:
        rows = {name: judge["agreement"][folder] for name, judge in judges.items()}
        lines += [
            f"## {'All crops' if folder == 'all' else folder}",
            "",
            "| attribute | measure | n | " + " | ".join(rows) + " | second labeller |",
            "|---|---|---:|" + "---:|" * (len(rows) + 1),
        ]
        for group, first in next(iter(rows.values())).items():
            values = [_interval(judge[group]) for judge in rows.values()]
            person = figures["labellers"][folder].get(group)
            values.append(f"{_interval(person)}, {person['n']}" if person else "–")
            measure = first["measure"] + (f" of {', '.join(first['words'])}" if first["words"] else "")
            lines.append(f"| {group} | {measure} | {first['n']} | " + " | ".join(values) + " |")
        lines.append("")
    lines += ["Versions (SHA-256):", "", *(f"- {name}: `{judge['sha256']}`" for name, judge in judges.items()), ""]
    return "\n".join(lines)


def _interval(row: dict) -> str:
    return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
