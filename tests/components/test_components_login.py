"""A user who is logged in owns what they started, from any browser; nobody can claim to be them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest

from backend.errors import InputError
from backend.runs import Login, RunStore, is_owner, set_owner
from backend.training.manager import Manager
from components.attach import view_of
from components.context import PageContext, Settings
from components.login import owner_of, read_accounts, user_of
from components.monitor import Monitor
from components.page import build, launch_settings
from tests.components.fake_run import write_fake_run
from tests.training.fake_learner import SMALL, fake_build

ACCOUNTS = "# who may come in\nalice:wonder:land\n\n bob : builder\n"


def visit(name: str | None = None, session: dict | None = None) -> gr.Request:
    """A request as gradio hands it over."""
    return gr.Request(SimpleNamespace(scope={"session": session} if session is not None else {}), username=name)


def test_accounts_are_read(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    file.write_text(ACCOUNTS, encoding="utf-8")
    assert read_accounts(file) == [("alice", "wonder:land"), ("bob", " builder")]


@pytest.mark.parametrize(
    ("text", "message"), [("", "names nobody"), ("alice", "line 1"), ("a:b\n:c", "line 2"), ("a:", "line 1"), ("a:b\na:c", "each name once"), (None, "cannot be read")]
)
def test_a_bad_accounts_file_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "accounts"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_accounts(file)


def test_who_asks() -> None:
    space = {"oauth_info": {"userinfo": {"preferred_username": "carol"}}}
    assert user_of(None) is None and user_of(visit()) is None and user_of(visit(session={})) is None
    assert user_of(visit("alice")) == Login("alice") and user_of(visit(session=space)) == Login("carol")
    assert owner_of({"owner": "token"}, visit("alice")) == Login("alice") and owner_of({"owner": "token"}, visit()) == "token"


def test_a_login_owns_and_no_string_can_stand_for_it(guarded: PageContext) -> None:
    run = write_fake_run(guarded.store.root, 3, state="stopped")
    set_owner(run, "token", Login("alice"))
    assert is_owner(run, Login("alice")) and is_owner(run, "token")
    for other in (Login("bob"), Login(""), "alice", str(Login("alice")), Login("token"), None):
        assert not is_owner(run, other), other
    assert "alice" not in run.owner_path.read_text()
    with gr.Blocks():
        monitor = Monitor(guarded, gr.State({}), gr.BrowserState({}, storage_key="k", secret="s"))
        monitor.build()
    pause = list(monitor.buttons).index("pause")
    assert monitor.controls(view_of(run.id, "runs"), {}, "buttons", visit("alice"))[pause]["interactive"]
    assert not monitor.controls(view_of(run.id, "runs"), {}, "buttons", visit("bob"))[pause]["interactive"]
    assert "another visitor" in monitor._control("pause")(view_of(run.id, "runs"), {"owner": "alice"}, visit("bob"))


def test_accounts_and_a_space_login_ask_for_ownership() -> None:
    known = Settings.from_environment({"CRATER_AUTH": "accounts"})
    assert known.auth == "accounts" and known.require_token
    assert Settings.from_environment({"OAUTH_CLIENT_ID": "x", "SPACE_ID": "me/lab"}).space_login and not Settings.from_environment({}).space_login


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, PageContext]]:
    """The page behind a login, with a learner that is there at once."""
    (tmp_path / "accounts").write_text(ACCOUNTS, encoding="utf-8")
    store = RunStore(tmp_path / "runs")
    context = PageContext(
        store, Manager(store, require_token=True, build=fake_build(step_seconds=0.002)), Settings(auth=str(tmp_path / "accounts"), require_token=True), RunStore(tmp_path)
    )
    page = build(context)
    page.launch(prevent_thread_lock=True, server_name="127.0.0.1", **{**launch_settings(context), "quiet": True})
    yield page.local_url, context
    page.close()
    assert context.manager.shutdown(60)


def test_two_users_of_one_server(served: tuple[str, PageContext]) -> None:
    from gradio_client import Client
    from gradio_client.exceptions import AppError, AuthenticationError

    address, context = served
    with pytest.raises(AuthenticationError):
        Client(address, verbose=False)
    alice, bob = (Client(address, auth=pair, verbose=False) for pair in (("alice", "wonder:land"), ("bob", " builder")))
    ticket = alice.predict({**SMALL, "episodes": 3000, "executor": "thread", "sample_every": 5, "threads": 1}, api_name="/start")
    run = context.store.get(ticket["run_id"])
    until(lambda: run.images())
    image = f"{address}crater/runs/{run.id}/{run.images()[0].png.name}"
    assert httpx.get(image).status_code == 404, "a stranger sees the pictures of a page that asks for a login"
    assert httpx.get(image, cookies=dict(alice.cookies)).status_code == 200
    assert httpx.get(f"{address}gradio_api/file={context.settings.auth}", cookies=dict(bob.cookies)).status_code == 403
    with pytest.raises(AppError, match="another visitor"):
        bob.predict(run.id, api_name="/stop")
    with pytest.raises(AppError, match="another visitor"):
        bob.predict(run.id, "alice", api_name="/stop")
    assert run.status().state == "running"
    Client(address, auth=("alice", "wonder:land"), verbose=False).predict(run.id, api_name="/stop")
    until(lambda: run.status().state == "stopped")


def until(condition: object) -> None:
    """Wait up to a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
