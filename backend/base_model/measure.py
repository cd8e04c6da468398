"""Figures of the model card: reconstruction, realism, obedience, diversity, memorisation, each beside its bounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from backend.base_model.data import SIZE, load_dataset
from backend.base_model.readers import RegionReader
from backend.evaluation.diversity import median_distance, partitions, subset_vendi
from backend.features.load import load_extractor
from backend.reference.captions import ATTRIBUTES, NAMED, attribute_targets, caption, recombined, sample_for_caption
from backend.reference.realism import frechet
from backend.reference.renderer import CraterParameters, render_batch, sample_parameters
from backend.rewards.attributes_model import cross_validated, r_squared

GUIDANCE = 7.5
SEED = 500_000  # of the first image of held-out renders' captions
COMBINED_SEED = 600_000  # of the first image of the test prompts' words in new combinations
STEPS = 20
PCA_DIMS = 48
DRAW = 500  # images of one draw of the Fréchet distance
DRAWS = 5
CHUNK = 256  # training images read at once
SCALES = (2.0, 3.0, 5.0)  # further guidance scales
SCALE_IMAGES, SCALE_DIMS = 120, 16  # images of each: half a minute to a minute on one core; components that so few can estimate


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, h, w, 3] to float32 [N, 3, h, w] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def held_out(count: int, seed: int = 900_001) -> tuple[np.ndarray, list[CraterParameters]]:
    """Renders that no training seed can give: images uint8 [N, h, w, 3] and parameters."""
    rng = np.random.default_rng(seed)
    params = [sample_parameters(rng) for _ in range(count)]
    return render_all(params, rng), params


def render_all(params: Sequence[CraterParameters], rng: np.random.Generator) -> np.ndarray:
    """Render in batches of 32: uint8 [N, SIZE, SIZE, 3]."""
    seeds = rng.integers(0, 2**31 - 1, size=len(params)).tolist()
    return np.concatenate([render_batch(params[i : i + 32], seeds[i : i + 32], size=SIZE) for i in range(0, len(params), 32)])


def generate(folder: Path, prompts: Sequence[str], seed: int, *, guidance: float = GUIDANCE, steps: int = STEPS, batch: int = 32) -> np.ndarray:
    """Images uint8 [P, h, w, 3] by plain diffusers: one prompt each, deterministic DDIM, one generator per image."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    out = []
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        images = pipeline(part, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np").images
        out.append((images * 255).round().astype(np.uint8))
    return np.concatenate(out)


def projection(reference: np.ndarray, components: int) -> Callable[[np.ndarray], np.ndarray]:
    """Standardisation by features [N, D] and projection [*, D] -> [*, components] on their first principal components."""
    mean, std = reference.mean(0), reference.std(0) + 1e-6
    axes = np.linalg.svd((reference - mean) / std, full_matrices=False)[2][:components].T
    return lambda features: (features - mean) / std @ axes


def frechet_table(reference: np.ndarray, others: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, list[float]]:
    """Mean and standard deviation over draws of the distance to the reference, and its floor between halves of it.

    Args:
        reference: [N, D] features; all sets are standardised by it and projected on its first components.
        others: sets of features by name.
        rng: picks the draws.
    """
    project = projection(reference, PCA_DIMS)
    ref = project(reference)
    rows: dict[str, list[float]] = {"floor": []}
    for _ in range(DRAWS):
        order = rng.permutation(len(ref))
        rows["floor"].append(frechet(ref[order[: len(ref) // 2]], ref[order[len(ref) // 2 :]]))
    for name, features in others.items():
        flat = project(features)
        rows[name] = [frechet(flat[rng.permutation(len(flat))[:DRAW]], ref) for _ in range(DRAWS)]
    return {name: [round(float(np.mean(v)), 2), round(float(np.std(v)), 2)] for name, v in rows.items()}


def truth(params: Sequence[CraterParameters]) -> torch.Tensor:
    """Every attribute of parameters: [N, A] float64 in the order of ATTRIBUTES."""
    return torch.tensor([[attribute_targets(p)[name] for name in ATTRIBUTES] for p in params], dtype=torch.float64)


def group_r_squared(predicted: torch.Tensor, true: torch.Tensor) -> dict[str, float]:
    """R^2 of [N, A] attributes by group (view, size, kind, …): the columns of a group are pooled by their variance."""
    scores, variance, out = r_squared(predicted, true), true.var(0, unbiased=False), {}
    for group in dict.fromkeys(n.partition(":")[0] for n in ATTRIBUTES):
        index = [i for i, n in enumerate(ATTRIBUTES) if n.partition(":")[0] == group]
        out[group] = round(float((scores[index] * variance[index]).sum() / variance[index].sum()), 4)
    return out


def adherence_table(reader: RegionReader, renders: np.ndarray, generated: np.ndarray, params: Sequence[CraterParameters]) -> dict[str, dict[str, float]]:
    """R^2 of attributes read from images against the parameters behind their full captions, for renders and for generated ones.

    Args:
        reader: ridge regressors on Lite0 features; they never saw these renders.
        renders, generated: uint8 [N, h, w, 3] of the same parameters.
        params: N.
    """
    true = truth(params)
    return _beside(*(group_r_squared(reader.read(to_tensor(images)), true) for images in (renders, generated)))


def own_adherence_table(renders: np.ndarray, generated: np.ndarray, params: Sequence[CraterParameters]) -> dict[str, dict[str, float]]:
    """R^2 of the caption's parameters, each set of pictures read by regressors fitted on itself (five folds).

    It says how much of the caption a picture carries; `adherence_table` also asks that it look as the renderer would draw it.

    Args:
        renders, generated: [N, D] features of pictures of the same parameters.
        params: N.
    """
    true = truth(params)
    return _beside(*(group_r_squared(cross_validated(torch.from_numpy(features), true), true) for features in (renders, generated)))


def combination_table(folder: Path, reader: RegionReader, prompts: Sequence[str], count: int, rng: np.random.Generator) -> dict[str, dict[str, dict[str, float]]]:
    """Both kinds of adherence to the words of the test prompts joined anew, of the parts that such a caption names.

    Args:
        folder: the pipeline.
        reader: of attributes.
        prompts: whose words are joined.
        count: images.
        rng: joins the words and draws everything that the captions leave free.
    """
    captions = recombined(prompts, count, rng)
    params = [sample_for_caption(c, rng) for c in captions]
    renders, generated = render_all(params, rng), generate(folder, captions, seed=COMBINED_SEED)
    network = load_extractor("efficientnet_lite0")
    features = [network(to_tensor(images)).double().numpy() for images in (renders, generated)]
    tables = {"adherence": adherence_table(reader, renders, generated, params), "own_adherence": own_adherence_table(*features, params)}
    return {kind: {name: row for name, row in table.items() if name in NAMED} for kind, table in tables.items()}


def _beside(renders: dict[str, float], generated: dict[str, float]) -> dict[str, dict[str, float]]:
    table = {group: {"renders": renders[group], "generated": generated[group]} for group in renders}
    for row in table.values():
        row["relative"] = round(row["generated"] / row["renders"], 3) if row["renders"] > 0 else 0.0
    return table


def guidance_table(folder: Path, reader: RegionReader, fresh: np.ndarray, params: Sequence[CraterParameters], at_default: np.ndarray) -> dict[str, dict[str, float]]:
    """Distance and adherence of the first images at several guidance scales; few images, so compare them with each other only.

    Args:
        folder: the pipeline.
        reader: of attributes.
        fresh: uint8 [N, h, w, 3] held-out renders.
        params: N, theirs.
        at_default: uint8 [N, h, w, 3] generated for the same captions at GUIDANCE.
    """
    count, network = min(SCALE_IMAGES, len(params)), load_extractor("efficientnet_lite0")
    reference = network(to_tensor(fresh)).double().numpy()
    project = projection(reference, SCALE_DIMS)
    captions = [caption(p) for p in params[:count]]
    pictures = {scale: generate(folder, captions, seed=SEED, guidance=scale) for scale in SCALES} | {GUIDANCE: at_default[:count]}
    out = {}
    for scale, images in pictures.items():
        features = network(to_tensor(images)).double().numpy()
        rows = adherence_table(reader, fresh[:count], images, params[:count]).values()
        adherence = {name: round(float(np.mean([row[name] for row in rows])), 3) for name in ("generated", "renders")}
        out[str(scale)] = {"frechet": round(float(frechet(project(features), project(reference))), 1), "adherence": adherence, "images": count}
    return out


def diversity_table(folder: Path, prompts: Sequence[str], per_prompt: int, rng: np.random.Generator) -> dict[str, float]:
    """Vendi score (q = 1) of subsets: generated at guidance 7.5, renders of the same captions with all else free, and those renders through the autoencoder."""
    repeated = [p for p in prompts for _ in range(per_prompt)]
    renders = render_all([sample_for_caption(p, rng) for p in repeated], rng)
    pictures = {
        "generated": to_tensor(generate(folder, repeated, seed=700_000)),
        "renders of the captions": to_tensor(renders),
        "these through the autoencoder": through_autoencoder(folder, renders),
    }
    network = load_extractor("efficientnet_lite2")
    features = {name: network(images).double().numpy() for name, images in pictures.items()}
    mean, std = features["renders of the captions"].mean(0), features["renders of the captions"].std(0) + 1e-6
    standardised = {name: (rows - mean) / std for name, rows in features.items()}
    width = median_distance(standardised["renders of the captions"])
    subsets = partitions(len(repeated), min(73, len(repeated) // 2), rng)
    values = {name: round(float(subset_vendi(rows, subsets, width).mean()), 3) for name, rows in standardised.items()}
    return values | {"relative": round(values["generated"] / values["renders of the captions"], 3), "images": len(repeated)}


def memorisation(generated: np.ndarray, training: np.ndarray, fresh: np.ndarray) -> dict[str, float]:
    """Median and smallest Lite0 distance to the nearest training image, of generated images and of fresh renders, all uint8 [*, h, w, 3].

    Both are turned and mirrored in all eight ways, as training images were; the nearest of the eight counts.
    """
    network = load_extractor("efficientnet_lite0")
    sought = {name: torch.stack([network(to_tensor(x)) for x in symmetries(images)]) for name, images in (("generated", generated), ("fresh renders", fresh))}
    nearest = {name: torch.full(views.shape[1:2], torch.inf) for name, views in sought.items()}
    for start in range(0, len(training), CHUNK):
        kept = network(to_tensor(training[start : start + CHUNK]))
        for name, views in sought.items():
            nearest[name] = torch.minimum(nearest[name], torch.cdist(views, kept[None]).amin((0, 2)))
    out: dict[str, float] = {"training images": len(training)}
    for name, distances in nearest.items():
        out |= {f"{name} median": round(float(distances.median()), 3), f"{name} minimum": round(float(distances.min()), 3)}
    return out


def symmetries(images: np.ndarray) -> list[np.ndarray]:
    """Square images [N, h, h, 3] turned by the four quarter turns, plain and mirrored."""
    return [np.rot90(mirrored, turns, axes=(1, 2)) for mirrored in (images, images[:, :, ::-1]) for turns in range(4)]


def through_autoencoder(folder: Path, images: np.ndarray) -> torch.Tensor:
    """What the pipeline's autoencoder makes of uint8 images [N, h, w, 3]: float [N, 3, h, w] in [0, 1]."""
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(folder, subfolder="vae", dtype=torch.float32, local_files_only=True)
    with torch.inference_mode():
        return torch.cat([(vae.decode(vae.encode(x * 2 - 1).latents).sample / 2 + 0.5).clamp(0, 1) for x in to_tensor(images).split(32)])


def rmse(images: torch.Tensor, originals: np.ndarray) -> float:
    """Root mean square error of images [N, 3, h, w] in [0, 1], originals uint8 [N, h, w, 3]."""
    return float((images - to_tensor(originals)).double().square().mean().sqrt())


def measure_model(folder: Path, work: Path, test_prompts: Sequence[str], count: int, trained_on: int) -> dict:
    """All figures of the model card.

    Args:
        folder: the pipeline.
        work: folder with the training renders.
        test_prompts: for the diversity figure, and for their words in new combinations.
        count: generated images and held-out renders.
        trained_on: training renders, among which the nearest to a generated image is sought.
    """
    began, rng = time.time(), np.random.default_rng(5)
    fresh, params = held_out(count)
    training, _ = load_dataset(work / "renders", trained_on)
    reader = RegionReader.load()
    generated = generate(folder, [caption(p) for p in params], seed=SEED)
    noise = np.random.default_rng(6).integers(0, 256, size=(200, SIZE, SIZE, 3), dtype=np.uint8)
    network = load_extractor("efficientnet_lite0")
    features = {name: network(to_tensor(x)).double().numpy() for name, x in (("fresh", fresh), ("generated", generated), ("noise", noise))}
    return {
        "images": count,
        "reconstruction_rmse": round(rmse(through_autoencoder(folder, fresh), fresh), 5),
        "frechet_lite0": frechet_table(features["fresh"], {"generated": features["generated"], "noise": features["noise"]}, rng),
        "adherence": adherence_table(reader, fresh, generated, params),
        "own_adherence": own_adherence_table(features["fresh"], features["generated"], params),
        "combinations": combination_table(folder, reader, test_prompts, count, np.random.default_rng(8)),
        "guidance": guidance_table(folder, reader, fresh, params, generated),
        "diversity_vendi_lite2": diversity_table(folder, test_prompts, max(2, count // (2 * len(test_prompts))), rng),
        "memorisation": memorisation(generated, training, fresh),
        "seconds": round(time.time() - began, 1),
    }
