"""What all tabs share: where runs are, who may do what, and the limits of a public demo."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from backend.config import field_meta, field_names, make_config
from backend.config.load import environment_values, is_public_demo
from backend.errors import InputError
from backend.reference.manifest import read_manifest
from backend.runs import Run, RunStore
from backend.training.chunks import CHUNK_SECONDS, lend_gpu, train_chunk
from backend.training.libraries import import_trainer
from backend.training.limits import Limits
from backend.training.manager import Manager
from components.audience import Audience
from components.feed import RunFeed
from components.references import ReferenceLibrary

ROOT = Path(__file__).resolve().parent.parent
DEMO_RUNS = ROOT / "assets" / "demo_runs"
MOST_LISTED = 200  # runs in the table and in every choice of a run
LOOPBACK = {"", "127.0.0.1", "localhost", "::1"}


def _whole(environ: Mapping[str, str], name: str, default: int | None) -> int | None:
    value = environ.get(name, "")
    if not value:
        return default
    if not value.isdigit() or int(value) < 1:
        raise InputError(f"{name} = {value!r}: give a whole number from 1")
    return int(value)


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    value = environ.get(name, "")
    try:
        seconds = float(value or default)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"{name} = {value!r}: give seconds above 0, such as {default}")
    return seconds


def reference_folders(root: Path) -> list[Path]:
    """Folders directly in another that are reference sets by their manifests."""
    return [path.parent for path in sorted(root.glob("*/manifest.json")) if _is_reference(path.parent, path.stat().st_mtime_ns)]


@lru_cache(maxsize=256)
def _is_reference(folder: Path, changed: int) -> bool:
    """Whether a folder's manifest is sound; it is read anew when its time of change is another."""
    try:
        read_manifest(folder)
    except InputError:
        return False
    return True


@dataclass(frozen=True)
class Settings:
    """How this page is offered, from the environment.

    Attributes:
        public_demo: strangers use it: caps apply, folders and hub ids cannot be chosen, a banner says so (`CRATER_PUBLIC_DEMO=1`, or a Space).
        require_token: only the browser or the user that started a run may steer it; else the local user may steer all
            (`CRATER_REQUIRE_TOKEN=1`, a server reachable from elsewhere, or accounts).
        max_episodes, max_images, max_minutes, max_queue, runs_per_owner, keep_runs: caps (`CRATER_MAX_EPISODES`, `CRATER_MAX_IMAGES`, `CRATER_MAX_MINUTES`,
            `CRATER_MAX_QUEUE`, `CRATER_RUNS_PER_VISITOR`, `CRATER_KEEP_RUNS`).
        auth: file of accounts, one `name:password` a line: who opens the page must log in, and steers what they started (`CRATER_AUTH`, `--auth`).
        zero_gpu: the GPU is lent for seconds at a time, so runs train in chunks with Continue (a Space on ZeroGPU).
        space_login: a Space that offers its own login (`hf_oauth: true` in its README): who uses it steers from any browser.
        max_generate: most images of one request in Generate (`CRATER_MAX_GENERATE`).
        tick_seconds: how often a viewer asks for news (`CRATER_TICK_SECONDS`).
    """

    public_demo: bool = False
    require_token: bool = False
    max_episodes: int | None = None
    max_images: int | None = None
    max_minutes: int | None = None
    max_queue: int = 16
    runs_per_owner: int | None = None
    keep_runs: int | None = None
    max_generate: int = 64
    tick_seconds: float = 1.0
    auth: str = ""
    space_login: bool = False
    zero_gpu: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Settings of this process.

        Raises:
            InputError: a cap is not a whole number from 1, or the time between two asks no number above 0.
        """
        environ = os.environ if environ is None else environ
        public = is_public_demo(environ)
        shared = environ.get("GRADIO_SHARE", "").lower() == "true"  # as gradio reads it: a public link to this machine
        reachable = shared or environ.get("GRADIO_SERVER_NAME", "") not in LOOPBACK
        return cls(
            public_demo=public,
            require_token=public or reachable or bool(environ.get("CRATER_AUTH")) or environ.get("CRATER_REQUIRE_TOKEN") == "1",
            max_episodes=_whole(environ, "CRATER_MAX_EPISODES", 100 if public else None),
            max_images=_whole(environ, "CRATER_MAX_IMAGES", 1600 if public else None),
            max_minutes=_whole(environ, "CRATER_MAX_MINUTES", 60 if public else None),
            max_queue=_whole(environ, "CRATER_MAX_QUEUE", 8 if public else 16),
            runs_per_owner=_whole(environ, "CRATER_RUNS_PER_VISITOR", 1 if public else None),
            keep_runs=_whole(environ, "CRATER_KEEP_RUNS", 50 if public else None),
            max_generate=_whole(environ, "CRATER_MAX_GENERATE", 8 if public else 64),
            tick_seconds=_seconds(environ, "CRATER_TICK_SECONDS", 1.0),
            auth=environ.get("CRATER_AUTH", ""),
            zero_gpu=environ.get("SPACES_ZERO_GPU", "").lower() in {"1", "true"},
            space_login=bool(environ.get("OAUTH_CLIENT_ID")),
        )

    def sentence(self) -> str:
        """The plain banner of a public demo; empty elsewhere."""
        if not self.public_demo:
            return ""
        return (
            f"Public demo: at most {self.max_episodes} episodes and {self.max_images} images in all, {self.runs_per_owner} run a visitor, {self.max_queue} in the queue. "
            "Only the browser that started a run can steer it. "
            + (f"The GPU is lent for {CHUNK_SECONDS:.0f} s at a time: Continue goes on from the last episode. " if self.zero_gpu else "")
            + "Run CraterLab on your own machine for everything else."
        )


@dataclass
class PageContext:
    """Shared by all tabs and viewers of one server process."""

    store: RunStore
    manager: Manager
    settings: Settings
    demo: RunStore
    audience: Audience = field(init=False)
    _feeds: dict[tuple[str, str], RunFeed] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _warm: bool = False

    def __post_init__(self) -> None:
        self.audience = Audience(self.settings.tick_seconds)

    @classmethod
    def create(cls, runs_dir: str | Path | None = None, settings: Settings | None = None) -> PageContext:
        """Open the folder of runs and take up what an earlier server left there."""
        settings = settings or Settings.from_environment()
        store = RunStore(runs_dir)
        limits = Limits(**{cap.name: getattr(settings, cap.name) for cap in fields(Limits)})
        chunk = lend_gpu(train_chunk) if settings.zero_gpu else None
        return cls(store, Manager(store, require_token=settings.require_token, limits=limits, chunk=chunk), settings, RunStore(DEMO_RUNS))

    def on_device(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that needs the device, as this server may call it: at once, or with the GPU that ZeroGPU lends."""
        return lend_gpu(function) if self.settings.zero_gpu else function

    def run(self, run_id: str, source: str = "runs") -> Run:
        """A run by id, from the user's folder or from the recorded ones.

        Raises:
            InputError: no such run.
        """
        return (self.demo if source == "demo" else self.store).get(run_id)

    def source_of(self, run_id: str) -> str | None:
        """ "runs", "demo", or None where there is no such run."""
        for source in ("runs", "demo"):
            try:
                self.run(run_id, source)
            except InputError:
                continue
            return source
        return None

    def feed(self, run_id: str, source: str) -> RunFeed:
        """The one reader of a run that all its viewers share."""
        with self._lock:
            key = (source, run_id)
            if key not in self._feeds:
                if len(self._feeds) > 64:
                    self._feeds.pop(next(iter(self._feeds)))
                self._feeds[key] = RunFeed(self.run(run_id, source), source, self.manager if source == "runs" else None)
            return self._feeds[key]

    def warm_up(self, after: float = 2.0) -> None:
        """Import the trainer's libraries once, in the background, while the first visitor still looks around: the first Start is sooner."""
        with self._lock:
            if self._warm:
                return
            self._warm = True
        timer = threading.Timer(after, import_trainer)
        timer.daemon = True
        timer.start()

    def forget(self, run_id: str) -> None:
        """Drop the reader of a deleted run."""
        with self._lock:
            self._feeds.pop(("runs", run_id), None)

    @property
    def references(self) -> ReferenceLibrary:
        """Reference sets that this server offers."""
        return ReferenceLibrary(self.default_values()["reference"], self.store.root)

    def default_values(self) -> dict[str, Any]:
        """The form's first content: the schema's defaults under the environment's."""
        config = make_config(environment_values())
        return {name: getattr(config, name) for name in field_names()}

    def environment(self) -> dict[str, Any]:
        """Settings that the server's environment names, validated."""
        return {name: value for name, value in self.default_values().items() if name in environment_values()}

    def trusted_choices(self, name: str) -> list[str]:
        """What the page offers for a setting that names a file or folder: the server's own, and what lies in assets or where the command line leaves it."""
        default = self.default_values()[name]
        found = {
            "base_model": [p.parent for place in (ROOT / "assets" / "models", ROOT / "models") for p in sorted(place.glob("*/model_index.json"))],
            "train_prompts": sorted((ROOT / "assets" / "prompts").glob("*.txt")),
            "test_prompts": sorted((ROOT / "assets" / "prompts").glob("*.txt")),
            "reference": [*self.references.sets().values(), *reference_folders(ROOT)],
        }.get(name, [])
        offered = [] if self.settings.public_demo else [p.relative_to(ROOT).as_posix() if p.is_relative_to(ROOT) else str(p) for p in found]
        return list(dict.fromkeys([default, field_meta(name)["default"], *offered]))

    @property
    def offered(self) -> dict[str, list[str]]:
        """The trusted choices of every setting that names a file, folder or hub id."""
        return {name: self.trusted_choices(name) for name in field_names() if field_meta(name)["trusted"]}

    def check_trusted(self, values: Mapping[str, Any]) -> None:
        """Refuse a file, folder or hub id that this server does not offer.

        Raises:
            InputError: with the field at fault.
        """
        for refusal in self.untrusted(values):
            raise refusal

    def untrusted(self, values: Mapping[str, Any]) -> list[InputError]:
        """One refusal for each file, folder or hub id that this server does not offer."""
        named = [n for n in field_names() if n in values and field_meta(n)["trusted"] and values[n] not in self.trusted_choices(n)]
        return [InputError(f"{n} = {values[n]!r} cannot be named from the page: start the server with CRATER_{n.upper()}={values[n]}", field=n) for n in named]
