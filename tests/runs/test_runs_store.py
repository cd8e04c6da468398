"""Creating, finding, listing, deleting and packing runs; ids, links and damaged folders."""

import json
import os
import shutil
import zipfile

import pytest

from backend.config import TrainConfig, make_config, read_config_file
from backend.errors import InputError
from backend.runs import RunStore, is_owner, new_owner, set_owner
from backend.runs.status import StatusWriter, fresh_status
from backend.runs.tables import TableWriter


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def finish(run, state="completed", **fields):
    writer = StatusWriter(run.status_path, fresh_status(state="running", **fields))
    writer.update(state=state)


def test_a_new_run_has_its_folders_settings_and_state(store):
    run = store.create(TrainConfig(episodes=7, mode="DIVERSITY_POLICY"), {"git": "abc"})
    assert {p.name for p in run.path.iterdir()} == {"attempts", "checkpoints", "config.json", "control", "images", "logs", "plots", "status.json"}
    assert run.config == TrainConfig(episodes=7, mode="DIVERSITY_POLICY") and run.record["git"] == "abc"
    assert run.id.startswith("crater_2") and run.id.endswith("_DIVERSITY_POLICY_MMD_VENDI")
    assert (run.status().state, run.status().total, store.effective_state(run)) == ("queued", 7, "queued")


def test_twenty_runs_in_one_second_have_twenty_names(store):
    assert len({store.create(TrainConfig()).id for _ in range(20)}) == 20
    assert len(store.list()) == 20


def test_the_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "elsewhere"))
    run = RunStore().create(TrainConfig())
    assert run.path.parent == tmp_path / "elsewhere"


@pytest.mark.parametrize("bad", ["../x", "a/b", "/etc", "", "a" * 81, "a b", "..", "x\n", "é", None, 7, "<img src=x onerror=alert(1)>"])
def test_ids_that_could_leave_the_folder_are_refused(store, bad):
    with pytest.raises(InputError, match="not allowed"):
        store.get(bad)


def test_a_link_is_no_run(store, tmp_path):
    run = store.create(TrainConfig())
    os.symlink(run.path, store.root / "link")
    with pytest.raises(InputError, match="unknown run"):
        store.get("link")
    assert [s.id for s in store.list()] == [run.id]


def test_a_damaged_run_hides_no_other(store):
    good, bad, no_status, empty = (store.create(TrainConfig()) for _ in range(4))
    bad.config_path.write_text("{half")
    no_status.status_path.unlink()
    empty.config_path.unlink()
    summaries = {s.id: s for s in store.list()}
    assert set(summaries) == {good.id, bad.id, no_status.id}
    assert summaries[bad.id].damaged and not summaries[good.id].damaged
    assert summaries[no_status.id].state == "interrupted"
    with pytest.raises(InputError, match=r"config\.json"):
        bad.config.mode  # noqa: B018


@pytest.mark.parametrize(("field", "value"), [("mode", "MINE"), ("metric", "HUE"), ("extractor", "thumbnail")])
def test_a_run_of_a_plugin_that_is_not_loaded_says_so(store, field, value):
    older, run = store.create(TrainConfig()), store.create(TrainConfig())
    run.config_path.write_text(json.dumps({**json.loads(run.config_path.read_text()), field: value}))
    with pytest.raises(InputError, match=f"{run.id} was trained with a plug-in that is not loaded here .{field} '{value}'.: start with --plugin"):
        run.config  # noqa: B018
    assert not run.readable and older.readable
    assert (store.newest().id, store.newest(readable=True).id) == (run.id, older.id)


def test_a_summary_tells_score_and_gap(store):
    run = store.create(TrainConfig(note="<i>mine</i>", episodes=9))
    finish(run, episode=9, total=9, score=0.25, best_score=0.5, base_level=0.125)
    run.evaluation_path.write_text(json.dumps({"gap_closed": {"mean": 0.5, "low": 0.1}}))
    found = store.list()[0]
    assert (found.state, found.episode, found.score, found.best_score, found.gap_closed, found.note) == ("completed", 9, 0.25, 0.5, 0.5, "<i>mine</i>")
    assert (found.gap_low, found.gap_high, found.images, found.guards) == (0.1, None, None, None)


def test_a_summary_tells_what_the_gap_rests_on_and_minds_no_rubbish(store):
    run, guards = store.create(TrainConfig()), {"passed": False, "precision": False, "unsettled": ["precision"]}
    finish(run)
    evaluation = {"gap_closed": 0.416, "gap": {"lite2": {"low": 0.196, "high": 1.22}}, "images": 64, "guards": guards}
    run.evaluation_path.write_text(json.dumps(evaluation))
    found = store.list()[0]
    assert (found.gap_low, found.gap_high, found.images, found.guards) == (0.196, 1.22, 64, guards)
    for rubbish in ({"gap": [1]}, {"gap": {"lite2": "wide"}}, {"guards": "kept", "images": "many"}, {"gap_closed": True}, {"gap_closed": None}):
        run.evaluation_path.write_text(json.dumps({**evaluation, **rubbish}))
        assert store.list()[0].gap_closed == (None if "gap_closed" in rubbish else 0.416)


def test_a_live_run_is_not_deleted_and_a_finished_one_is(store):
    run = store.create(TrainConfig())
    with pytest.raises(InputError, match="queued: stop it"):
        store.delete(run.id)
    finish(run)
    store.delete(run.id)
    assert list(store.root.iterdir()) == []


def test_deleting_follows_no_link(store, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    run = store.create(TrainConfig())
    finish(run)
    os.symlink(tmp_path / "precious", run.images_dir / "out")
    store.delete(run.id)
    assert (tmp_path / "precious" / "file").read_text() == "x"


def test_a_zip_holds_the_run_and_nothing_private(store, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.txt").write_text("secret")
    run = store.create(TrainConfig())
    set_owner(run, "token-of-mine")
    run.request("stop")
    TableWriter(run.table_path("policy_updates"), ["episode"]).append([{"episode": 0}])
    os.symlink(tmp_path / "secret" / "s.txt", run.logs_dir / "leak.txt")
    os.symlink(tmp_path / "secret", run.images_dir / "leak")
    (run.checkpoints_dir / "episode_000010").mkdir()
    (run.checkpoints_dir / "episode_000010" / "w").write_text("w")
    with zipfile.ZipFile(store.zip(run.id, tmp_path)) as archive:
        names = {n.removeprefix(run.id + "/") for n in archive.namelist()}
    assert names == {"config.json", "status.json", "logs/policy_updates.csv", "checkpoints/episode_000010/w"}
    with zipfile.ZipFile(store.zip(run.id, tmp_path, checkpoints=False)) as archive:
        assert not any("checkpoints" in n for n in archive.namelist())


def test_only_the_tokens_hash_is_on_disk(store):
    run, token = store.create(TrainConfig()), new_owner()
    assert not is_owner(run, token)
    set_owner(run, token)
    assert is_owner(run, token) and not is_owner(run, token + "x") and not is_owner(run, None) and not is_owner(run, "")
    assert token not in run.owner_path.read_text()


def test_readers_start_again_when_the_attempt_changes(store):
    run = store.create(TrainConfig())
    TableWriter(run.table_path("policy_updates"), ["episode", "batch_score"]).append([{"episode": e, "batch_score": 0.5} for e in range(3)])
    StatusWriter(run.status_path, fresh_status(state="running", attempt=1)).update()
    rows, offset, attempt = run.read_rows("policy_updates")
    assert len(rows) == 3 and attempt == 1
    assert run.read_rows("policy_updates.csv", offset) == ([], offset, 1)
    StatusWriter(run.status_path, fresh_status(state="running", attempt=2)).update()
    assert run.read_columns("policy_updates", offset, ["episode"]) == ({"episode": []}, offset, 2)
    with pytest.raises(InputError, match="unknown table"):
        run.read_rows("../../etc/passwd")


def test_pictures_and_checkpoints_are_found_by_episode(store):
    run = store.create(TrainConfig())
    for name in ("episode_000010.png", "episode_000002.png", "denoising_000002.png", "episode_x.png", "other.png"):
        (run.images_dir / name).write_bytes(b"")
    (run.images_dir / "episode_000002.json").write_text('{"score": 1}')
    for name in ("episode_000020", "episode_000005", ".tmp-1", "episode_"):
        (run.checkpoints_dir / name).mkdir()
    (run.checkpoints_dir / "best.json").write_text('{"checkpoint": "episode_000005"}')
    assert [(s.episode, s.read()) for s in run.images()] == [(2, {"score": 1}), (10, {})]
    assert [s.episode for s in run.denoising()] == [2]
    assert [(c.episode, c.best) for c in run.checkpoints()] == [(5, True), (20, False)]


def test_the_log_tail_is_the_end_of_the_log(store):
    run = store.create(TrainConfig())
    assert run.log_tail() == ""
    run.log_path.write_text("\n".join(f"line {i}" for i in range(5000)))
    assert run.log_tail(2) == "line 4998\nline 4999"
    assert len(run.log_tail(50).splitlines()) == 50


def test_a_run_of_an_earlier_schema_keeps_the_defaults_of_its_time(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"schema_version": 1, "mode": "DIVERSITY_POLICY", "episodes": 5}), encoding="utf-8")
    values = read_config_file(config)
    assert values["baseline"] == "prompt" and make_config(values).perturbation_scale == 0.1
    config.write_text(json.dumps({"mode": "DIVERSITY_POLICY"}), encoding="utf-8")  # a person's file takes today's
    assert make_config(read_config_file(config)).baseline == "auto"
    config.write_text(json.dumps({"schema_version": 2, "noise_frequencies": 0}), encoding="utf-8")  # a setting that is no more
    assert make_config(read_config_file(config)).pathwise == 0 and make_config(read_config_file(config)).draws_twins
    config.write_text(json.dumps({"schema_version": 2, "noise_frequencies": 4}), encoding="utf-8")  # it did something
    with pytest.raises(InputError, match="noise_frequencies"):
        make_config(read_config_file(config))
    config.write_text(json.dumps({"schema_version": 3}), encoding="utf-8")
    earlier = make_config(read_config_file(config))
    assert earlier.metric == "MMD" and earlier.pathwise == 0.95 < TrainConfig().pathwise
    assert (earlier.adam_eps, earlier.lr_scheduler, earlier.learning_rate, earlier.vendi_weight) == (1e-8, "constant", 1e-3, 0.1)
    config.write_text(json.dumps({"schema_version": 4}), encoding="utf-8")
    assert make_config(read_config_file(config)).company == earlier.company == 0 < TrainConfig().company
    assert TrainConfig().schema_version > 4


def test_a_checkpoint_that_is_pruned_while_it_is_packed_is_left_out(store, tmp_path, monkeypatch):
    run = store.create(TrainConfig())
    for episode in (10, 20):
        folder = run.checkpoints_dir / f"episode_{episode:06d}"
        folder.mkdir()
        (folder / "trainer.json").write_text("{}")
    write = zipfile.ZipFile.write

    def prune(archive, path, *others):
        shutil.rmtree(run.checkpoints_dir / "episode_000010", ignore_errors=True)
        return write(archive, path, *others)

    monkeypatch.setattr(zipfile.ZipFile, "write", prune)
    with zipfile.ZipFile(store.zip(run.id, tmp_path)) as archive:
        assert archive.testzip() is None and [name for name in archive.namelist() if "checkpoints" in name] == [f"{run.id}/checkpoints/episode_000020/trainer.json"]


def test_a_full_disk_leaves_no_torn_zip_and_says_what_to_do(store, tmp_path, monkeypatch):
    run, out = store.create(TrainConfig()), tmp_path / "out"

    def full(archive, path, *others):
        archive.fp.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(InputError, match=r"cannot be packed into .*\.zip \(No space left on device\): free space in"):
        store.zip(run.id, out)
    assert list(out.iterdir()) == []


def test_a_run_that_is_deleted_while_it_is_packed_gives_no_zip(store, tmp_path, monkeypatch):
    run, out = store.create(TrainConfig()), tmp_path / "out"
    monkeypatch.setattr(zipfile.ZipFile, "write", lambda *args: (_ for _ in ()).throw(FileNotFoundError(2, "gone")))
    with pytest.raises(InputError, match="deleted while it was packed"):
        store.zip(run.id, out)
    assert list(out.iterdir()) == []
