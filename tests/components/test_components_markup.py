"""Nothing typed or recorded reaches HTML unescaped."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from components import banner, compare_views, form, help_tab, markup, references, runs_views
from components.context import PageContext
from components.reference_tab import ReferenceTab
from tests.components.fake_run import set_status, write_fake_run, write_sample

EVIL = '<img src=x onerror="window.hacked=1">'


def clean(html: str) -> bool:
    return "<img src=x" not in html and 'onerror="' not in html


@pytest.mark.parametrize(
    "make",
    [lambda: markup.note(EVIL), lambda: markup.table([EVIL], [[EVIL]], caption=EVIL), lambda: markup.empty(EVIL, EVIL), lambda: banner.log(EVIL), lambda: markup.number(EVIL)],
)
def test_builders_escape(make: object) -> None:
    html = make()
    assert clean(html) and "&lt;img" in html


def test_commands_in_a_message_are_code_and_still_escaped() -> None:
    message = f"run `python -m backend train --note {EVIL}` or a lone ` mark"
    for html in (markup.note(message), markup.empty("None", message)):
        assert clean(html) and "<code>python -m backend train --note &lt;img" in html and "&gt;</code> or a lone ` mark" in html


def test_views_of_a_hostile_run_are_clean(context: PageContext) -> None:
    run = write_fake_run(context.store.root, 6, note=EVIL)
    set_status(run, state="failed", error=EVIL, message=EVIL, phase=EVIL, device=EVIL, trend=EVIL)
    write_sample(run, 7, np.random.default_rng(0), prompt=EVIL)
    with run.events_path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"seq": 99, "kind": "alert", "message": EVIL}) + "\n")
        file.write(json.dumps({"seq": 100, "kind": "change", "field": EVIL, "value": EVIL, "episode": 1}) + "\n")
    feed = context.feed(run.id, "runs")
    feed.refresh()
    pairs = compare_views.recorded_pairs(run)
    images = np.zeros((3, 64, 64, 3), np.uint8)
    images[1], images[2] = 90, 200
    shown = [feed.parts["banner"], feed.parts["alerts"], runs_views.runs_table(context), runs_views.details(run), compare_views.neighbours(pairs, images, [EVIL] * 3, EVIL)]
    assert all(clean(html) for html in shown)
    assert "&lt;img" in feed.parts["banner"] and "&lt;img" in feed.parts["alerts"] and "&lt;img" in runs_views.runs_table(context)


def test_hostile_manifest_is_clean(tmp_path: Path) -> None:
    manifest = {"name": EVIL, "simulated": True, "images": [{"file": "images/a.png", "caption": EVIL, "sha256": "", "parameters": {"kind": EVIL}}]}
    html = references.thumbnails("default", manifest, 9, "strip") + references.counts(manifest) + markup.text(references.label(manifest))
    assert clean(html)


def test_hostile_names_metadata_and_captions_of_an_import_are_clean(context: PageContext, tmp_path: Path) -> None:
    generator, about = np.random.default_rng(0), PngInfo()
    for key in ("Title", "Description", "parameters"):
        about.add_text(key, EVIL)
    rows = io.StringIO()
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for i in range(12):
            picture = io.BytesIO()
            Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(picture, "PNG", pnginfo=about)
            archive.writestr(f"{i}{EVIL}.png", picture.getvalue())
            csv.writer(rows).writerow([f"{i}{EVIL}.png", EVIL])
        archive.writestr(f"{EVIL}.png", b"no picture")
        archive.writestr("captions.csv", "file,caption\n" + rows.getvalue())
    tab = ReferenceTab(context, context.references)
    report, *_ = tab.import_set([str(tmp_path / "mine.zip")], None, "mine", 64, False)
    refused, *_ = tab.import_set([str(tmp_path / "mine.zip")], None, EVIL, 64, False)
    shown, _ = tab.show("mine")
    assert "Imported as" in report and "note-bad" in refused
    for html in (report, refused, shown):
        assert clean(html) and "&lt;img" in html


@pytest.mark.parametrize(("seconds", "words"), [(4.2, "4 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (90_000, "1 d 1 h"), (None, "–"), (float("nan"), "–")])
def test_durations_are_said_as_people_say_them(seconds: float | None, words: str) -> None:
    assert markup.duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "–"), (3.0, "3"), (0.000123456, "0.0001235"), (-0.00185, "−0.00185"), (-1200, "−1,200"), (-1e-5, "−1e-05"), (float("inf"), "–"), (12000, "12,000")],
)
def test_numbers(value: float | None, words: str) -> None:
    assert markup.number(value) == words


def test_every_state_has_a_title_and_a_sentence() -> None:
    from backend.runs.status import NEXT

    assert set(NEXT) <= set(banner.TITLES) and set(NEXT) <= set(banner.SENTENCES)


def test_glossary_and_sentences_come_from_the_config() -> None:
    assert "clip_range_nats" in help_tab.glossary("PPO") and "live knob" in help_tab.glossary("PPO")
    assert "605 MB" in form.sentence_of("extractor", "clip")


@pytest.mark.parametrize(("state", "words"), [("recorded", "shown as an example. Press Start"), ("completed", "Compare shows what was learnt"), ("stopped", "")])
def test_the_banner_of_a_run_that_ended_well_says_how_it_ended_and_what_to_do_next(state: str, words: str) -> None:
    status = {"effective_state": state, "message": "completed after 60 of 60 episodes"}
    sentence = banner._queue_sentence(status, state)
    assert sentence == (f"Completed after 60 of 60 episodes. {banner.SENTENCES[state]}" if words else status["message"]) and words in sentence
    assert banner._queue_sentence({"message": ""}, state) == banner.SENTENCES[state]


def test_a_failure_is_told_in_the_style_of_failures() -> None:
    told = banner.alerts([{"kind": "alert", "message": "out of memory", "level": "error"}, {"kind": "alert", "message": "no progress"}], {})
    assert told.index('note-warn" role="alert">no progress') < told.index('note-bad" role="alert">out of memory')
