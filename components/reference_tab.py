"""The Reference tab: look at the set, import one's own, render craters from sliders."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from backend.config import EXTRACTORS
from backend.errors import InputError
from backend.reference.captions import caption
from backend.reference.renderer import INTERIORS, KINDS, RIMS, TERRAINS, VIEWS, render, sample_parameters
from components.context import PageContext
from components.drawing import reference_features
from components.live_chart import figure
from components.markup import empty, note, text
from components.references import ReferenceLibrary, counts, figures_table, label, spread_figure, spread_table, tag, thumbnails
from components.scratch import scratch_folder

PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
SIDE = 256
SLIDERS = {
    "size": (0.1, 0.9, "Size", "crater diameter / frame width"),
    "freshness": (0.0, 1.0, "Freshness", "1 just formed, 0 almost erased by age"),
    "sun_azimuth": (0.0, 360.0, "Sun azimuth", "degrees, where the light comes from"),
    "sun_elevation": (5.0, 85.0, "Sun elevation", "degrees above the horizon"),
    "colour": (0.0, 1.0, "Colour", "0 grey, 1 red"),
    "small_craters": (0.0, 90.0, "Small craters", "expected number in the frame"),
    "infill": (0.0, 0.9, "Infill", "flat floor / crater radius"),
    "ejecta": (0.0, 1.0, "Ejecta", "strength of the blanket's texture"),
}
WORDS = {"view": VIEWS, "kind": KINDS, "terrain": TERRAINS, "rims": RIMS, "interiors": INTERIORS}


class ReferenceTab:
    """Widgets and events of the tab."""

    def __init__(self, context: PageContext, library: ReferenceLibrary) -> None:
        self.context, self.library = context, library

    def build(self, field: gr.Dropdown) -> None:
        """Lay out and wire the tab.

        Args:
            field: where the Train tab's form chooses its set; an imported one is offered there too.
        """
        self.field = field
        self.which = gr.Dropdown(choices=list(self.library.sets()), value="default", label="Reference set", elem_id="reference-set", interactive=True)
        self.summary = gr.HTML(elem_id="reference-summary", elem_classes="plain-html")
        self.spread = figure(pictures=True, elem_id="reference-spread")
        self.figures = gr.HTML(elem_id="reference-figures", elem_classes="plain-html")
        with gr.Accordion("Build features", open=False, elem_id="features-box"):
            self._build_features()
        with gr.Accordion("Render a simulated crater", open=True, elem_id="render-box"):
            self._build_renderer()
        if not self.context.settings.public_demo:
            with gr.Accordion("Import your own images", open=False, elem_id="import-box"):
                self._build_import()
        self._then_measure(self.which.change(self.show, self.which, [self.summary, self.spread], **PRIVATE))

    def opened_by(self, tab: gr.Tab) -> None:
        """Whenever the tab is opened, show the set as it is now."""
        self._then_measure(tab.select(self.show, self.which, [self.summary, self.spread], **PRIVATE))

    def _then_measure(self, shown: Any) -> None:
        shown.then(self.measure, self.which, self.figures, api_visibility="private", show_progress="minimal")  # after the images, for it may take seconds

    @property
    def lists(self) -> list[Any]:
        """What `offer` fills."""
        return [self.which, self.field]

    def offer(self) -> tuple[Any, Any]:
        """The sets that there are now, here and in the form; what is chosen stays chosen."""
        return gr.Dropdown(choices=list(self.library.sets())), gr.Dropdown(choices=self.context.trusted_choices("reference"))

    def show(self, name: str) -> tuple[str, Any]:
        """Label, statistics and all images of a set."""
        try:
            manifest = self.library.manifest(name)
        except InputError as error:
            return empty("No reference set", str(error)), None
        about = " · ".join(str(manifest[k]) for k in ("source", "licence", "citation") if manifest.get(k))
        head = f'<h2 class="section-title">{text(label(manifest))} {tag(manifest)} <small>{text(about)}</small></h2>'
        return head + thumbnails(name, manifest, 300, "strip") + counts(manifest), spread_figure(manifest) if name == "default" else None

    def measure(self, name: str) -> str:
        """Light, colour, near duplicates and captions of a set."""
        try:
            return figures_table(self.library.figures(name))
        except InputError as error:
            return note(str(error), "warn")

    def _build_features(self) -> None:
        about = "What the rewards compare: each image as a vector. The map shows where the set has company and where it stands alone."
        gr.HTML(f'<div class="caption">{about}</div>', elem_classes="plain-html")
        with gr.Row(equal_height=False):
            extractor = gr.Dropdown(choices=EXTRACTORS.names(), value=EXTRACTORS.names()[0], label="Feature extractor", min_width=200)
            button = gr.Button("Build", elem_id="features-start", size="md")
        report, plot = gr.HTML(elem_id="features-report", elem_classes="plain-html"), figure(pictures=True, elem_id="features-map")
        settings = {"api_visibility": "private", "show_progress": "minimal", "show_progress_on": report, "concurrency_limit": 1, "concurrency_id": "device"}
        file = gr.File(label="To take along", visible=False, elem_id="features-file")
        button.click(self.features, [self.which, extractor], [report, plot, file], **settings)

    def features(self, name: str, extractor: str) -> tuple[str, Any, Any]:
        """Features of a set by an extractor: their number, their network and their spread, a map of them, and all of them as NPZ."""
        from backend.analysis.feature_figures import feature_map
        from backend.reference.dataset import load_reference
        from backend.reference.export import features_npz_name, write_features_npz
        from backend.reference.statistics import describe_features

        try:
            found = load_reference(self.library.folder(name))
            values, about = reference_features(self.context, found.images, extractor)
            if len(values) < 2:
                raise InputError(f"set {name!r} has one image: features are compared with each other; import two or more")
            plot, spread = feature_map({"reference": values}, "pca"), describe_features(values)
            file = write_features_npz(found, values, about, scratch_folder() / features_npz_name(extractor))
        except (InputError, OSError) as error:  # the latter of the temporary folder
            return note(str(error), "bad"), None, gr.File(value=None, visible=False)
        trace = plot["data"][0]
        trace["customdata"] = [[f"crater/reference/{name}/{i}.png", caption] for i, caption in enumerate(found.captions)]
        trace["hovertemplate"] = "<extra></extra>"
        plot["layout"].pop("title", None)
        what = "; ".join(f"{key}: {value}" for key, value in about.items())
        said = note(f"{len(values)} images, {values.shape[1]} numbers each ({what}).", "good") + spread_table(spread)
        return said, {"key": f"{name} {extractor}", **plot}, gr.File(value=str(file), visible=True)

    def _build_renderer(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                words = {name: gr.Dropdown(choices=list(values), value=values[0], label=name.capitalize(), min_width=130) for name, values in list(WORDS.items())[:2]}
                with gr.Row():
                    words.update({name: gr.Dropdown(choices=list(values), value=values[0], label=name.capitalize(), min_width=130) for name, values in list(WORDS.items())[2:]})
                begin = slider_values(0, **{name: values[0] for name, values in WORDS.items()})
                sliders = {name: gr.Slider(low, high, value, label=title, info=info) for value, (name, (low, high, title, info)) in zip(begin, SLIDERS.items(), strict=True)}
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            with gr.Column(scale=2, min_width=260):
                picture = gr.Image(label="Rendered, not photographed", format="png", height=360, interactive=False, elem_id="rendered", buttons=["download"])
                words_shown = gr.HTML(elem_id="rendered-caption", elem_classes="plain-html")
        self.scene_inputs, self.scene_outputs = {**words, "seed": seed}, [*sliders.values(), picture, words_shown]
        gr.on([w.input for w in self.scene_inputs.values()], scene, None, self.scene_outputs, inputs_kwargs=self.scene_inputs, trigger_mode="always_last", **PRIVATE)
        self.render_inputs, self.render_outputs = {**words, **sliders, "seed": seed}, [picture, words_shown]
        gr.on([s.release for s in sliders.values()], draw, None, self.render_outputs, inputs_kwargs=self.render_inputs, trigger_mode="always_last", **PRIVATE)

    def _build_import(self) -> None:
        about = "Images of any size, a .zip of them, or an .npz with an array of images. The report names every file that was refused, and why."
        gr.HTML(f'<div class="caption">{about}</div>', elem_classes="plain-html")
        with gr.Row(equal_height=False):
            files = gr.File(label="Images, .zip or .npz", file_count="multiple", elem_id="import-files", height=150)
            folder = gr.File(label="or a whole folder", file_count="directory", elem_id="import-folder", height=150)
        with gr.Row():
            name = gr.Textbox(label="Name of the new set", placeholder="my_craters", max_lines=1, min_width=160)
            size = gr.Number(128, label="Side in pixels", precision=0, min_width=120)
            near = gr.Checkbox(label="Leave out near duplicates", min_width=160)
        button = gr.Button("Import", size="md", elem_id="import-start")
        report = gr.HTML(elem_id="import-report", elem_classes="plain-html")
        button.click(self.import_set, [files, folder, name, size, near], [report, *self.lists], api_visibility="private", show_progress="minimal", show_progress_on=report)

    def import_set(self, files: list[str] | None, folder: list[str] | None, name: str, size: float, near: bool) -> tuple[str, Any, Any]:
        """Import what was uploaded, show the report and offer the set."""
        if self.context.settings.public_demo:
            return note("Importing is off on a public demo: run CraterLab on your own machine.", "warn"), gr.skip(), gr.skip()
        try:
            made, lines = self.library.import_files([*(files or []), *(folder or [])], (name or "").strip(), int(size or 0), bool(near))
        except InputError as error:
            return note(str(error), "bad"), gr.skip(), gr.skip()
        listed = "".join(f"<li>{text(line)}</li>" for line in lines[:200])
        report = note(f"Imported as {made!r}; choose it under Reference set on the Train tab.", "good") + f'<ul class="caption">{listed}</ul>'
        return report, gr.Dropdown(choices=list(self.library.sets()), value=made), self.offer()[1]


def slider_values(seed: float | None, **words: str) -> list[float]:
    """A value for each slider that agrees with the words: they act through depth, light, age and the like."""
    drawn = sample_parameters(np.random.default_rng(_seed(seed)), **words)
    return [round(min(max(getattr(drawn, name), low), high), 2) for name, (low, high, *_) in SLIDERS.items()]


def scene(seed: float | None = 0, **words: str) -> tuple[Any, ...]:
    """What words and seed ask for: `slider_values`, then as `draw`."""
    try:
        values = slider_values(seed, **words)
    except InputError as error:
        return (*[gr.skip()] * len(SLIDERS), None, note(str(error), "warn"))
    return (*values, *draw(seed, **words, **dict(zip(SLIDERS, values, strict=True))))


def draw(seed: float | None = 0, **values: Any) -> tuple[np.ndarray | None, str]:
    """One simulated crater, uint8 [256, 256, 3], with these parameters and others that agree with them, and its caption or what to mend."""
    try:
        parameters = sample_parameters(np.random.default_rng(_seed(seed)), **values)
        image = render(parameters, _seed(seed), SIDE)
    except InputError as error:
        return None, note(str(error), "warn")
    return image, f'<div class="caption">Caption: {text(caption(parameters))} <span class="tag tag-accent">simulated</span></div>'


def _seed(value: float | None) -> int:
    return int(value or 0) % 2**31
