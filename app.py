"""The page: python app.py [--runs-dir FOLDER] [--plugin FILE.py] [--auth FILE] [--host ADDRESS] [--port NUMBER]."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if importlib.util.find_spec("spaces"):
    import spaces  # noqa: F401  (a Hugging Face Space with a shared GPU wants it before anything else)

from backend.config import load_plugins  # noqa: E402
from backend.errors import InputError  # noqa: E402
from components.context import PageContext  # noqa: E402
from components.page import build, launch_settings  # noqa: E402

SAVING_SECONDS = 40.0  # for the run's last checkpoint
LEAVING_SECONDS = 10.0  # for a drawing or an evaluation in hand; with gradio's own 5 s the page ends within a minute


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Open CraterLab's page.")
    parser.add_argument("--runs-dir", default=None, help="folder of the runs (default: RUNS_DIR, else runs)")
    parser.add_argument("--plugin", action="append", default=[], help="Python file that registers metrics, policies or extractors; may be repeated")
    parser.add_argument("--host", default=None, help="address to listen on (default: GRADIO_SERVER_NAME, else 127.0.0.1)")
    parser.add_argument("--port", type=int, default=None, help="port (default: GRADIO_SERVER_PORT, else the first free one from 7860)")
    parser.add_argument("--auth", default=None, metavar="FILE", help="accounts, one name:password a line: visitors log in and steer only what they started (default: CRATER_AUTH)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Build the page and serve it until it is stopped; exit status 2 where something given cannot be used."""
    given = arguments(argv)
    if given.host:
        os.environ["GRADIO_SERVER_NAME"] = given.host
    if given.auth:
        os.environ["CRATER_AUTH"] = given.auth
    try:
        check_address(os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1", given.port)
        load_plugins(given.plugin)
        context = PageContext.create(given.runs_dir)
        settings = launch_settings(context)
        page = build(context)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    page.queue(max_size=64)
    with ended_by_signals():
        try:
            page.launch(server_name=given.host, server_port=given.port, **settings)
        except KeyboardInterrupt:
            pass  # it came while the page was opening
        except OSError as error:  # an address that another program took meanwhile
            print(f"error: the page cannot be served ({error}): choose another port with --port", file=sys.stderr)
            return 2
        finally:
            leave(context)
    return 0


def check_address(host: str, port: int | None) -> None:
    """See that the page can listen there.

    Args:
        host: name or address, an IPv6 one with or without brackets.
        port: None tries the host alone.

    Raises:
        InputError: no address of this machine, or a port that is none, is in use or is not allowed.
    """
    if port is not None and not 1 <= port <= 65535:
        raise InputError(f"port {port} is none: give --port a number from 1 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.bind(address)
    except OSError as error:
        raise InputError(f"host {host!r} cannot be listened on ({error.strerror}): give --host an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all") from error
    if port is None:
        return
    try:
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((address[0], port, *address[2:]))
    except OSError as error:
        raise InputError(f"port {port} cannot be listened on ({error.strerror}): choose another with --port, or leave it out for the first free one from 7860") from error


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM interrupt the main thread once; the second ends the process at once."""
    asked = 0

    def interrupt(number: int, frame: Any) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            print("ended at once: Resume goes on from the newest checkpoint", flush=True)
            os._exit(128 + number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(context: PageContext) -> None:
    """End what trains here with a checkpoint, and say so."""
    run_id = context.manager.active()
    if run_id:
        print(f"run {run_id} is stopping: its checkpoint is written first, for at most {SAVING_SECONDS:.0f} s (Ctrl-C ends at once)", flush=True)
    ended = context.manager.shutdown(SAVING_SECONDS)
    if run_id:
        status = context.store.get(run_id).status()
        said = f"stopped after {status.episode} of {status.total} episodes" if ended else f"has not ended within {SAVING_SECONDS:.0f} s"
        print(f"run {run_id} {said}: Resume goes on from its newest checkpoint", flush=True)


if __name__ == "__main__":
    status = main()
    late = threading.Timer(LEAVING_SECONDS, os._exit, (status,))
    late.daemon = True
    late.start()
    sys.exit(status)
