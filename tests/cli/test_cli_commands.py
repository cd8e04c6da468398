"""The command line without training: flags are the settings, errors are one line with status 2, runs are tended."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from backend.cli.app import main
from backend.cli.config import describe, differences
from backend.cli.settings import flag
from backend.config import TrainConfig, field_meta, field_names, load_preset, preset_names
from backend.runs import RunStore
from backend.runs.status import StatusWriter, fresh_status
from backend.training.slurm import SlurmOptions, job_script

ROOT = Path(__file__).resolve().parents[2]


def call(capsys, *arguments):
    """Exit status, standard output and standard error of a command."""
    try:
        main(list(arguments))
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_setting_is_a_flag_of_train_and_named_in_config(capsys):
    import inspect

    from backend.cli.train import train

    parameters = inspect.signature(train).parameters
    options = {name: parameters[name].annotation.__metadata__[0] for name in field_names()}
    for name, option in options.items():
        named = [option.default, *option.param_decls][0]  # typer keeps the first declaration in `default`
        assert named.split("/")[0] == flag(name) and field_meta(name)["help"] in option.help and option.rich_help_panel == field_meta(name)["group"]
    code, out, _ = call(capsys, "config")
    assert code == 0 and all(f"{flag(n)} (default {field_meta(n)['default']!r})" in out and field_meta(n)["help"] in out for n in field_names())
    assert out.strip() == describe()
    _, said, _ = call(capsys, "train", "--help")
    assert preset_names() and all(name in said for name in preset_names())


BAD = [
    (["--mode", "NOPE"], "unknown mode 'NOPE': choose one of LORA_UNET"),
    (["--metric", "NOPE"], "unknown metric 'NOPE': choose one of MMD"),
    (["--episodes", "0"], "episodes"),
    (["--episodes", "many"], "episodes"),
    (["--learning-rate", "nan"], "learning_rate"),
    (["--reward-mode", "x"], "choose one of difference"),
    (["--train-prompts", "nowhere.txt"], "'nowhere.txt' does not exist"),
    (["--base-model", "tests"], "no model_index.json"),
    (["--base-model", "./nowhere"], "no such folder"),
    (["--reference", "nowhere"], "nowhere"),
    (["--config", "nowhere.json"], "cannot be read"),
    (["--preset", "../../etc/passwd"], "unknown preset"),
    (["--preset", "one_gpu_sd15"], "preset one_gpu_sd15 is meant for a model of Stable Diffusion's size: name one with --base-model or CRATER_BASE_MODEL"),
    (["--slurm", "--dry-run", "--preset", "many_gpus"], "preset many_gpus is meant for a model"),
    (["--plugin", "nowhere.py"], "does not exist"),
    (["--window-size", "99"], "beyond step"),
    (["--ensemble", "MMD=abc"], "ensemble part 'MMD=abc'"),
    (["--device", "cuda:99"], "device 'cuda:99'"),
    (["--dry-run"], "--dry-run goes with --slurm"),
    (["--slurm", "--slurm-cluster", "moon"], "choose one of slurm"),
    (["--run-id", "../x"], "not allowed"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else None)
def test_bad_input_is_one_line_with_status_2_and_writes_nothing(capsys, runs_dir, monkeypatch, arguments, words):
    monkeypatch.setattr("backend.reference.dataset.load_reference", lambda *a, **k: None) if "nowhere" not in arguments[-1] else None
    code, out, err = call(capsys, "train", *arguments)
    assert code == 2 and len(err.strip().splitlines()) == 1 and err.startswith("error: ") and words in err, err
    assert list(runs_dir.iterdir()) == [] and out == ""


@pytest.mark.parametrize(
    "command", [["resume", "a/b"], ["runs", "show", "../x"], ["runs", "delete", "/etc", "--yes"], ["runs", "zip", "a b"], ["config", "diff", "x/y", "default"]]
)
def test_a_run_id_with_a_slash_is_refused(capsys, runs_dir, command):
    code, _, err = call(capsys, *command)
    assert code == 2 and "not allowed" in err


def test_an_empty_prompt_file_is_refused(capsys, runs_dir, tmp_path):
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    code, _, err = call(capsys, "train", "--train-prompts", str(tmp_path / "empty.txt"))
    assert code == 2 and "empty.txt" in err and list(runs_dir.iterdir()) == []


def test_settings_come_from_defaults_preset_file_environment_and_flags_in_that_order(capsys, tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text("episodes: 11\nseed: 5\nlearning_rate: 0.001\n")
    monkeypatch.setenv("CRATER_SEED", "6")
    monkeypatch.setenv("CRATER_EPISODES", "12")
    code, out, _ = call(capsys, "config", "show", "--preset", "quick_look", "--config", str(tmp_path / "c.yaml"), "--episodes", "13", "--no-use-bonuses")
    document, command = out.rsplit("}\n", 1)
    values = json.loads(document + "}")
    assert code == 0 and (values["episodes"], values["seed"], values["learning_rate"], values["use_bonuses"]) == (13, 6, 0.001, False)
    assert "--episodes 13" in command and "--no-use-bonuses" in command
    assert values["probe_every"] == load_preset("quick_look")["values"]["probe_every"] != TrainConfig().probe_every


def test_the_equivalent_command_gives_the_same_settings_back(capsys):
    _, out, _ = call(capsys, "config", "show", "--mode", "DIVERSITY_POLICY", "--note", "it's <b>", "--eta", "0.5", "--no-use-bonuses")
    import shlex

    arguments = shlex.split(out.rsplit("}\n", 1)[1].strip())[4:]
    _, again, _ = call(capsys, "config", "show", *arguments)
    assert again == out


def test_config_files_are_checked_and_compared(capsys, tmp_path, runs_dir):
    (tmp_path / "good.json").write_text('{"num_episodes": 7}')
    (tmp_path / "bad.json").write_text('{"episodes": -1}')
    assert call(capsys, "config", "validate", str(tmp_path / "good.json"), "--no-files")[1].endswith("1 settings differ from the defaults, all are valid\n")
    assert call(capsys, "config", "validate", str(tmp_path / "bad.json"), "--no-files")[0] == 2
    run = RunStore(runs_dir).create(TrainConfig(seed=9))
    assert call(capsys, "config", "diff", "default", run.id)[1] == "seed: 0 -> 9\n"
    assert differences(TrainConfig(), TrainConfig()) == []


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("key.yaml", "1: 2\n", "unknown setting '1'"), ("deep.json", "[" * 200_000, "nested too deeply"), ("deep.yaml", "[" * 20_000, "nested too deeply")],
)
def test_a_settings_file_of_odd_shape_is_refused_in_one_line(capsys, tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    code, _, err = call(capsys, "config", "validate", str(tmp_path / name), "--no-files")
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1


def test_a_device_of_another_machine_is_valid_and_can_be_submitted(capsys, tmp_path, runs_dir):
    (tmp_path / "far.json").write_text('{"device": "cuda:99"}')
    assert call(capsys, "config", "validate", str(tmp_path / "far.json"))[0] == 0
    code, out, _ = call(capsys, "train", "--config", str(tmp_path / "far.json"), "--slurm", "--dry-run")
    assert code == 0 and "--device cuda:99" in out


def test_runs_are_listed_shown_packed_and_deleted(capsys, runs_dir, tmp_path):
    store = RunStore(runs_dir)
    run = store.create(TrainConfig(note="mine", episodes=5))
    StatusWriter(run.status_path, fresh_status(state="running", episode=5, total=5, best_score=0.5, best_episode=4)).update(state="completed")
    listed = json.loads(call(capsys, "runs", "list", "--json")[1])
    assert [(s["id"], s["state"], s["note"], s["best_score"]) for s in listed] == [(run.id, "completed", "mine", 0.5)]
    assert "0.5000" in call(capsys, "runs", "list")[1]
    shown = call(capsys, "runs", "show", run.id)[1]
    assert "completed" in shown and "--note mine" in shown and "(episode 4)" in shown
    code, out, _ = call(capsys, "runs", "zip", run.id, "--out", str(tmp_path))
    assert code == 0 and zipfile.is_zipfile(out.strip())
    code, out, _ = call(capsys, "runs", "zip", run.id, "--out", str(tmp_path / "made/here"))
    assert code == 0 and out.strip() == str(tmp_path / f"made/here/{run.id}.zip") and zipfile.is_zipfile(out.strip())
    (tmp_path / "file").write_text("")
    code, _, err = call(capsys, "runs", "zip", run.id, "--out", str(tmp_path / "file/under"))
    assert code == 2 and f"folder {tmp_path / 'file/under'} cannot be written" in err
    assert call(capsys, "runs", "stop", run.id)[0] == 2
    assert call(capsys, "runs", "delete", run.id, "--yes")[0] == 0 and store.list() == []


def test_a_run_copied_or_unzipped_into_another_folder_is_a_run_there(capsys, runs_dir, tmp_path):
    run = RunStore(runs_dir).create(TrainConfig(note="mine", episodes=5))
    StatusWriter(run.status_path, fresh_status(state="running", episode=5, total=5)).update(state="completed")
    archive = call(capsys, "runs", "zip", run.id, "--out", str(tmp_path))[1].strip()
    shutil.copytree(run.path, tmp_path / "copied" / run.id)
    zipfile.ZipFile(archive).extractall(tmp_path / "unzipped")
    for folder in (tmp_path / "copied", tmp_path / "unzipped"):
        (listed,) = json.loads(call(capsys, "runs", "list", "--json", "--runs-dir", str(folder))[1])
        assert (listed["id"], listed["state"], listed["note"]) == (run.id, "completed", "mine")
        assert "episode 5 of 5" in call(capsys, "runs", "show", run.id, "--runs-dir", str(folder))[1]


@pytest.mark.parametrize(
    ("settings", "words"), [({"metric": "HUE"}, "LORA_UNET HUE (run"), ({"seed": -1}, "LORA_UNET MMD_VENDI (seed = -1"), (None, "(config file config.json is neither")]
)
def test_a_run_whose_settings_cannot_be_read_is_shown_to_its_end(capsys, runs_dir, settings, words):
    run = RunStore(runs_dir).create(TrainConfig())
    text = run.config_path.read_text()
    run.config_path.write_text(json.dumps({**json.loads(text), **settings}) if settings else "{half")
    run.log_path.write_text("the last words\n")
    code, shown, _ = call(capsys, "runs", "show", run.id)
    assert code == 0 and words in shown and "| the last words" in shown


@pytest.mark.parametrize("command", [["runs", "show"], ["resume"], ["evaluate"], ["report"], ["plot"]])
def test_the_newest_run_of_a_folder_has_a_name_in_every_command(capsys, tmp_path, command):
    code, _, error = call(capsys, *command, "latest", "--runs-dir", str(tmp_path))
    assert code == 2 and "there is no run in" in error and str(tmp_path) in error
    run = RunStore(tmp_path).create(TrainConfig())
    assert RunStore(tmp_path).find("newest").id == run.id and run.id in call(capsys, "runs", "show", "latest", "--runs-dir", str(tmp_path))[1]


def test_evaluate_replaces_what_took_longer_only_when_told(capsys, runs_dir, monkeypatch):
    run, calls = RunStore(runs_dir).create(TrainConfig()), []
    (run.checkpoints_dir / "episode_000009").mkdir(parents=True)
    run.evaluation_path.write_text(json.dumps({"images": 1024, "checkpoint": "episode_000009", "gap_closed": 0.5}))
    monkeypatch.setattr("backend.evaluation.evaluate.evaluate_run", lambda run, *rest, **named: calls.append(run) or {"table": [], "checkpoint": "c", "images": 64, "notes": []})
    code, _, error = call(capsys, "evaluate", run.id, "--images", "64")
    assert code == 2 and "1,024 images and its gap closed of 50% would be lost" in error and "--replace" in error and not calls
    assert call(capsys, "evaluate", run.id, "--images", "64", "--replace")[0] == 0 and call(capsys, "evaluate", run.id, "--images", "1024")[0] == 0 and len(calls) == 2


def test_a_live_run_is_asked_and_not_deleted(capsys, runs_dir):
    run = RunStore(runs_dir).create(TrainConfig())
    assert call(capsys, "runs", "delete", run.id, "--yes")[0] == 2
    for words, kind in [(["stop", run.id], "stop"), (["pause", run.id], "pause"), (["go-on", run.id], "resume"), (["change", run.id, "learning_rate", "1e-5"], "change")]:
        assert call(capsys, "runs", *words)[0] == 0
        (path,) = run.control_dir.iterdir()
        assert json.loads(path.read_text())["kind"] == kind
        path.unlink()
    assert call(capsys, "runs", "change", run.id, "episodes", "9")[0] == 2 and list(run.control_dir.iterdir()) == []
    assert call(capsys, "resume", run.id)[0] == 2


@pytest.mark.parametrize(("state", "resumable"), [("stopped", True), ("failed", True), ("interrupted", True), ("completed", False)])
def test_resume_is_named_only_where_it_continues_the_run(capsys, runs_dir, state, resumable):
    run = RunStore(runs_dir).create(TrainConfig(episodes=5))
    StatusWriter(run.status_path, fresh_status(state="running", episode=5, total=5)).update(state=state)
    for command in ("stop", "pause"):
        code, _, error = call(capsys, "runs", command, run.id)
        assert code == 2 and f"is {state}: it cannot take {command}" in error
        assert ("resume" in error) == resumable and ("runs show" in error) != resumable


def test_the_job_script_asks_for_what_was_said_and_writes_nothing(runs_dir):
    script = job_script(TrainConfig(mode="DIVERSITY_POLICY", episodes=9), runs_dir, SlurmOptions("slurm", "gpu-short", 2, 90))
    assert "#SBATCH --partition=gpu-short" in script and "#SBATCH --gpus-per-node=2" in script and "#SBATCH --time=90" in script
    assert "-m backend train --mode DIVERSITY_POLICY --metric MMD_VENDI --episodes 9 --runs-dir" in script
    assert list(runs_dir.iterdir()) == []


def test_an_unknown_command_or_flag_is_refused_with_status_2(capsys):
    assert call(capsys, "nonsense")[0] == 2
    assert call(capsys, "train", "--nonsense", "1")[0] == 2


def test_help_imports_neither_torch_nor_diffusers():
    code = (
        "import sys\nfrom backend.cli.app import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'torch', 'diffusers', 'transformers', 'peft', 'gradio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--lora-rank" in done.stdout
