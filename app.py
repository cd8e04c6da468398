"""The page: python app.py [--runs-dir FOLDER] [--plugin FILE.py] [--auth FILE] [--host ADDRESS] [--port NUMBER]."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if importlib.util.find_spec("spaces"):
    import spaces  # noqa: F401  (a Hugging Face Space with a shared GPU wants it before anything else)

from backend.config import load_plugins  # noqa: E402
from backend.errors import InputError  # noqa: E402
from components.context import PageContext  # noqa: E402
from components.page import build, launch_settings  # noqa: E402


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
        load_plugins(given.plugin)
        context = PageContext.create(given.runs_dir)
        settings = launch_settings(context)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    page = build(context)
    page.queue(max_size=64)
    page.launch(server_name=given.host, server_port=given.port, **settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
