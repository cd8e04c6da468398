"""The tick sends only news, buttons follow state and ownership, the attach order is kept, files are served by known names only."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from backend.config import make_config
from backend.runs import set_owner
from components import feed, files
from components.attach import attach, greet, parse_choice, run_choices, view_of
from components.audience import Audience
from components.context import PageContext
from components.endpoints import Endpoints
from components.monitor import Monitor
from components.runs_views import runs_table
from tests.components.fake_run import set_status, write_fake_run, write_rows
from tests.patience import PATIENCE


def monitor_of(context: PageContext) -> Monitor:
    with gr.Blocks():
        monitor = Monitor(context, gr.State({}), gr.BrowserState({}, storage_key="k", secret="s"))
        monitor.build()
    return monitor


def look(monitor: Monitor, view: dict, seen: dict | None = None, visitor: object = None) -> tuple[dict, dict]:
    """One tick: what the viewer has seen afterwards, and what was sent by name."""
    seen = seen or {}
    monitor.context.feed(view["run"], view["source"])._read_at = 0
    if monitor.ask(view, visitor, seen) == gr.skip():
        return seen, {}
    seen, _, *parts, switch = monitor.refresh(view, visitor, seen)
    controls = monitor.controls(view, visitor, switch) if isinstance(switch, str) else []
    names = ["banner", "charts", "film", "alerts", "log", *(name for name in [*monitor.buttons, *monitor.knobs] if controls)]
    return seen, {name: value for name, value in zip(names, [*parts, *controls], strict=True) if value != gr.skip()}


def test_first_tick_sends_all_and_the_next_nothing(context: PageContext) -> None:
    run = write_fake_run(context.store.root, 20)
    monitor = monitor_of(context)
    view = view_of(run.id, "runs")
    seen, sent = look(monitor, view)
    assert {"banner", "charts", "film", "alerts", "log", "pause", "guidance_scale"} <= set(sent)
    assert sent["charts"]["charts"]["reward"]["points"] == 20
    assert len(sent["film"]["samples"]) == 4 and sent["film"]["samples"][0]["png"] == f"crater/runs/{run.id}/episode_000000.png"
    again, nothing = look(monitor, view, seen)
    assert nothing == {} and again is seen


def test_choosing_another_run_during_a_refresh_is_not_undone(context: PageContext) -> None:
    first, second = (write_fake_run(context.store.root, count) for count in (4, 9))
    monitor = monitor_of(context)
    assert monitor.view not in monitor.outputs, "a refresh that began before the choice would bring the old run back"
    late, _ = look(monitor, view_of(first.id, "runs"))
    seen, sent = look(monitor, view_of(second.id, "runs"), late)
    assert sent["charts"]["charts"]["reward"]["points"] == 9 and {"banner", "pause", "guidance_scale"} <= set(sent)
    assert look(monitor, view_of(second.id, "runs"), seen)[1] == {}


def test_a_crowd_asks_more_seldom_and_the_last_one_left_as_before():
    now = [0.0]
    audience = Audience(1.0, clock=lambda: now[0])
    assert [audience.ask(f"viewer {i}") for i in range(4)] == [1.0] * 4
    assert [audience.ask(f"viewer {i}") for i in range(20)][-1] == 8.0
    now[0] += 2
    assert audience.ask("viewer 0") == 8.0
    now[0] += 100
    assert audience.ask("viewer 3") == 1.0


def test_the_page_tells_each_viewer_its_pace(context: PageContext) -> None:
    monitor = monitor_of(context)
    visits = [SimpleNamespace(session_hash=str(i), username=None) for i in range(10)]
    assert monitor.ask({}, None, {}, visits[0]) == gr.skip()
    answers = [monitor.refresh({}, None, {}, visit) for visit in visits]
    assert answers[0][1] == gr.skip() and answers[-1][1].value == 4.0
    assert monitor.ask({}, None, answers[0][0], visits[0]) != gr.skip()
    told = monitor.refresh({}, None, answers[0][0], visits[0])
    assert told[1].value == 4.0 and monitor.ask({}, None, told[0], visits[0]) == gr.skip()


def test_a_tick_without_news_is_quick(context: PageContext) -> None:
    run = write_fake_run(context.store.root, 200)
    monitor = monitor_of(context)
    view = view_of(run.id, "runs")
    seen, _ = look(monitor, view)
    assert monitor.ask(view, None, seen) == gr.skip()
    best = min(_seconds(monitor, view, seen) for _ in range(20))
    assert best < 0.005 * PATIENCE


def _seconds(monitor: Monitor, view: dict, seen: dict) -> float:
    begin = time.perf_counter()
    monitor.ask(view, None, seen)
    return time.perf_counter() - begin


def test_new_rows_and_a_new_attempt_are_noticed(context: PageContext) -> None:
    run = write_fake_run(context.store.root, 10)
    monitor = monitor_of(context)
    view = view_of(run.id, "runs")
    seen, _ = look(monitor, view)
    write_rows(run, 10, 13)
    seen, sent = look(monitor, view, seen)
    assert sent["charts"]["charts"]["reward"]["points"] == 13 and not {"film", "pause", "guidance_scale"} & set(sent)
    (run.logs_dir / "policy_updates.csv").unlink()
    write_rows(run, 0, 5)
    set_status(run, attempt=1)
    _, sent = look(monitor, view, seen)
    assert sent["charts"]["charts"]["reward"]["points"] == 5, "after a resume the curve must be read again from its beginning"


def test_the_warm_up_leaves_hardly_an_import_to_the_first_start():
    """The libraries import a pipeline's classes when their names are asked for: two thousand modules, which took most of the first Start."""
    script = (
        "import sys; from backend.training.libraries import import_trainer; import_trainer(); before = set(sys.modules);"
        "from backend.diffusion.backbone import load_backbone; load_backbone('assets/models/crater-tiny'); print(len(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 100


def test_a_half_written_line_is_left_for_later(context: PageContext) -> None:
    run = write_fake_run(context.store.root, 5)
    monitor = monitor_of(context)
    table = run.logs_dir / "policy_updates.csv"
    whole = table.read_bytes()
    table.write_bytes(whole[:-20])
    view = view_of(run.id, "runs")
    seen, sent = look(monitor, view)
    assert sent["charts"]["charts"]["reward"]["points"] == 4
    table.write_bytes(whole)
    assert look(monitor, view, seen)[1]["charts"]["charts"]["reward"]["points"] == 5


def test_ten_thousand_episodes_open_within_two_seconds(context: PageContext) -> None:
    run = write_fake_run(context.store.root, 10_000, samples=1)
    feed = context.feed(run.id, "runs")
    begin = time.process_time()
    feed.refresh()
    assert time.process_time() - begin < 2.0
    assert feed.parts["charts"]["charts"]["reward"]["points"] == 10_000


def test_buttons_follow_state_and_owner(guarded: PageContext) -> None:
    run = write_fake_run(guarded.store.root, 5, state="stopped")
    set_owner(run, "mine")
    monitor = monitor_of(guarded)
    _, sent = look(monitor, view_of(run.id, "runs"), visitor={"owner": "another"})
    assert not any(sent[name]["interactive"] for name in monitor.buttons)
    _, sent = look(monitor, view_of(run.id, "runs"), visitor={"owner": "mine"})
    assert sent["pause"]["interactive"] and sent["pause"]["value"] == "Resume" and not sent["stop"]["interactive"]
    assert "another visitor" in monitor._control("pause")(view_of(run.id, "runs"), {"owner": "another"})


def test_knobs_show_what_the_run_has_now(context: PageContext) -> None:
    run = write_fake_run(context.store.root, 8, changes=2)
    _, sent = look(monitor_of(context), view_of(run.id, "runs"))
    assert sent["guidance_scale"] == 4.0 and sent["learning_rate"] == run.config.learning_rate


def test_of_several_changes_none_is_sent_where_one_is_refused(context: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context.manager.host, "ids", lambda: [run.id])
    run = write_fake_run(context.store.root, 3, state="running")
    monitor, view = monitor_of(context), view_of(run.id, "runs")
    look(monitor, view)

    def apply(**values: float) -> str:
        return monitor.apply_knobs(None, view, None, *(values.get(name) for name in monitor.knobs))

    assert "entropy_weight = 500" in apply(learning_rate=0.002, entropy_weight=500) and not list(run.control_dir.iterdir())
    assert "Asked for" in apply(learning_rate=0.002, entropy_weight=0.5)
    asked = [json.loads(path.read_text(encoding="utf-8"))["payload"] for path in run.control_dir.iterdir()]
    assert {a["field"]: a["value"] for a in asked} == {"learning_rate": 0.002, "entropy_weight": 0.5}


def test_a_change_of_state_leaves_what_is_being_typed_into_a_knob(context: PageContext) -> None:
    run = write_fake_run(context.store.root, 8, state="paused")
    monitor = monitor_of(context)
    view = view_of(run.id, "runs")
    seen, _ = look(monitor, view)
    set_status(run, state="stopped")
    _, sent = look(monitor, view, seen)
    assert sent["pause"]["value"] == "Resume" and not set(monitor.knobs) & set(sent)


def test_force_stop_is_offered_to_a_run_that_has_not_read_its_stop_and_a_pause_can_be_taken_back(context: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "FORCE_AFTER_SECONDS", 0)
    monkeypatch.setattr(context.manager.host, "ids", lambda: [run.id])
    run = write_fake_run(context.store.root, 3, state="running")
    monitor, view = monitor_of(context), view_of(run.id, "runs")
    run.request("pause")
    _, sent = look(monitor, view)
    assert sent["pause"]["value"] == "Resume" and sent["stop"]["interactive"]
    assert "Resume requested" in monitor._control("pause")(view, None)
    _, sent = look(monitor, view)
    assert sent["pause"]["value"] == "Pause" and not sent["force"]["visible"]
    assert "Stop requested" in monitor._control("stop")(view, None)
    look(monitor, view)
    _, sent = look(monitor, view)
    assert sent["force"]["visible"] and sent["force"]["interactive"] and not sent["stop"]["interactive"]


def test_answers_say_what_will_happen(context: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context.manager.host, "ids", lambda: [run.id])
    run = write_fake_run(context.store.root, 3, state="running")
    monitor, endpoints, view = monitor_of(context), Endpoints(context), view_of(run.id, "runs")
    for name in ("save_now", "sample_now"):
        set_status(run, state="running")
        assert "after this episode." in monitor._control(name)(view, None)
        set_status(run, state="paused")
        assert "after the next episode, once resumed." in monitor._control(name)(view, None)
    assert "checkpoint" in monitor._control("stop")(view, None) and "checkpoint" in endpoints.stop(run.id)["message"]
    for leave in (lambda: monitor._control("stop")(view, None), lambda: endpoints.stop(run.id)["message"]):
        set_status(run, state="queued", executor="slurm")
        answer = leave()
        assert "t left the queue" in answer and "checkpoint" not in answer and run.status().state == "stopped"


def test_deleted_run_leaves_a_sentence(context: PageContext) -> None:
    run = write_fake_run(context.store.root, 3)
    monitor = monitor_of(context)
    view = view_of(run.id, "runs")
    seen, _ = look(monitor, view)
    context.store.delete(run.id)
    gone, sent = look(monitor, view, seen)
    assert "no longer" in sent["banner"] and not any(sent[name]["interactive"] for name in monitor.buttons)
    context.feed(run.id, "runs")._read_at = 0
    assert monitor.ask(view, None, gone) == gr.skip(), "it is said once"


def test_attach_order(context: PageContext, tmp_path: Path) -> None:
    recorded = write_fake_run(tmp_path / "demo", 3)
    context.demo = type(context.store)(tmp_path / "demo")
    assert attach(context, {})["source"] == "demo" and attach(context, {})["run"] == recorded.id
    old, new = write_fake_run(context.store.root, 3), write_fake_run(context.store.root, 3, metric="DPP")
    assert attach(context, {})["run"] == new.id
    assert attach(context, {"last_run": old.id})["run"] == old.id
    assert attach(context, {"last_run": old.id}, asked=new.id)["run"] == new.id
    assert attach(context, {"last_run": "../../etc"}, asked="<script>")["run"] == new.id
    assert [c[1] for c in run_choices(context)] == [f"runs/{new.id}", f"runs/{old.id}", f"demo/{recorded.id}"]


@pytest.mark.parametrize("state", ["completed", "running"])
@pytest.mark.parametrize("settings", ["{half", '{"metric": "HUE"}'])
def test_a_run_whose_settings_cannot_be_read_is_shown_only_to_who_asks_for_it(context: PageContext, settings: str, state: str) -> None:
    context.demo = type(context.store)(context.store.root / "none")
    bad = write_fake_run(context.store.root, 3, state=state)
    bad.config_path.write_text(settings, encoding="utf-8")
    assert attach(context, {"last_run": bad.id}) == view_of("", "runs")
    good = write_fake_run(context.store.root, 3)
    record = json.loads(good.config_path.read_text(encoding="utf-8"))
    good.config_path.write_text(json.dumps({**record, "record": {"created": -1}}), encoding="utf-8")
    assert context.store.newest().id == bad.id
    assert attach(context, {})["run"] == attach(context, {"last_run": bad.id})["run"] == good.id
    assert attach(context, {"last_run": good.id}, asked=bad.id)["run"] == bad.id
    _, sent = look(monitor_of(context), view_of(bad.id, "runs"))
    assert ("neither JSON nor YAML" in sent["banner"]) == (settings == "{half") and ("--plugin FILE" in sent["banner"]) == (settings != "{half")


def test_every_run_of_the_table_can_be_chosen(context: PageContext) -> None:
    runs = [context.store.create(make_config({})).id for _ in range(60)]
    table, choices = runs_table(context), [choice for _, choice in run_choices(context)]
    assert all(run in table and f"runs/{run}" in choices for run in runs)


def test_a_browser_keeps_its_token() -> None:
    first = greet(None)
    assert len(first["owner"]) >= 24 and greet(first) == first and greet({})["owner"] != first["owner"]


@pytest.mark.parametrize("choice", [None, "", "runs/", "else/x", "../runs/x"])
def test_choices_that_are_none_are_refused(choice: object) -> None:
    with pytest.raises(ValueError, match="choose a run"):
        parse_choice(choice)


def test_only_known_images_are_served(context: PageContext, tmp_path: Path) -> None:
    run = write_fake_run(context.store.root, 4)
    (run.images_dir / "episode_000099.png").symlink_to(run.config_path)
    client = TestClient(Starlette(routes=files.routes(context)))
    assert client.get(f"/crater/runs/{run.id}/episode_000000.png").headers["content-type"] == "image/png"
    assert client.get(f"/crater/runs/{run.id}/episode_000000.json").json()["episode"] == 0
    for bad in ("config.json", "owner.json", "episode_000099.png", "..%2Fconfig.json", "episode_000000.png%00", "%2Fetc%2Fpasswd"):
        assert client.get(f"/crater/runs/{run.id}/{bad}").status_code == 404, bad
    for bad_id in ("..", "%2e%2e", "nothing", "a" * 99):
        assert client.get(f"/crater/runs/{bad_id}/episode_000000.png").status_code == 404
    assert client.get("/crater/reference/default/0.png").status_code == 200
    for bad in ("/crater/reference/default/99999.png", "/crater/reference/nothing/0.png", "/crater/reference/default/x.png", "/crater/reference/..%2f/0.png"):
        assert client.get(bad).status_code == 404


def test_endpoints_refuse_what_the_page_refuses(guarded: PageContext) -> None:
    run = write_fake_run(guarded.store.root, 4, state="completed")
    set_owner(run, "mine")
    endpoints = Endpoints(guarded)
    for config in ({"base_model": "evil/model"}, {"plugin": "x.py"}, {"nonsense": 1}, {"episodes": 0}, {"schema_version": 99}):
        with pytest.raises(gr.Error):
            endpoints.start(config)
    with pytest.raises(gr.Error, match="another visitor"):
        endpoints.stop(run.id, "foreign")
    for bad in ("../x", "/etc/passwd", "nothing"):
        with pytest.raises(gr.Error):
            endpoints.metrics(bad)
    assert endpoints.status()["effective_state"] == "completed"
    metrics = endpoints.metrics(run.id, 3)
    assert metrics["rows"] == 4 and len(metrics["columns"]["batch_score"]) == 1
    assert json.loads(json.dumps(endpoints.runs()))["runs"][0]["id"] == run.id
