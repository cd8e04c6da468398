"""The only run files that the page serves: sample images and their descriptions, looked up by run id and known name."""

from __future__ import annotations

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from backend.errors import InputError
from components.context import PageContext
from components.login import let_in

KNOWN_NAME = re.compile(r"(episode|denoising)_\d{6}\.(png|json)")
REFERENCE_NAME = re.compile(r"\d{1,5}\.png")


def routes(context: PageContext) -> list[Route]:
    """Routes for `launch(app_kwargs={"routes": …})`: images of runs, images of reference sets."""

    def run_image(request: Request) -> Response:
        """A sample of a run."""
        name, source = request.path_params["name"], request.path_params["source"]
        if not let_in(request) or source not in {"runs", "demo"} or not KNOWN_NAME.fullmatch(name):
            return _missing()
        try:
            run = context.run(request.path_params["run_id"], source)
        except InputError:
            return _missing()
        return _send(run.images_dir / name)

    def reference_image(request: Request) -> Response:
        name = request.path_params["name"]
        path = context.references.file(request.path_params["set"], int(name.removesuffix(".png"))) if let_in(request) and REFERENCE_NAME.fullmatch(name) else None
        return _send(path) if path else _missing()

    return [Route("/crater/reference/{set}/{name}", reference_image), Route("/crater/{source}/{run_id}/{name}", run_image)]


def _missing() -> Response:
    return PlainTextResponse("no such image", status_code=404)


def _send(path: Path) -> Response:
    if path.is_symlink() or not path.is_file():
        return _missing()
    return FileResponse(path, headers={"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"})
