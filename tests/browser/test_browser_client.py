"""A whole training through the named endpoints, without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.conftest import Server, wait_for

pytestmark = pytest.mark.browser


def test_client_drives_a_whole_training(server: Server) -> None:
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(server.url, verbose=False)
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {"/start", "/stop", "/status", "/metrics", "/runs", "/generate"}
    with pytest.raises(AppError, match="base_model"):
        client.predict({"base_model": "evil/model"}, api_name="/start")
    ticket = client.predict({"episodes": 4, "metric": "PAIRWISE", "note": "by client"}, api_name="/start")
    status = wait_for(lambda: (s := client.predict(ticket["run_id"], api_name="/status"))["effective_state"] == "completed" and s, 90, "the run completes")
    assert status["episode"] == 4 and status["score"] is not None
    metrics = client.predict(ticket["run_id"], api_name="/metrics")
    assert metrics["rows"] == 4 and len(metrics["columns"]["batch_score"]) == 4
    assert all(isinstance(v, float) for v in metrics["columns"]["batch_score"])
    mine = [r for r in client.predict(api_name="/runs")["runs"] if r["id"] == ticket["run_id"]]
    assert mine[0]["note"] == "by client" and mine[0]["state"] == "completed"
    with pytest.raises(AppError, match="another visitor"):
        client.predict(ticket["run_id"], "foreign", api_name="/stop")
    drawn, base, sentence = client.predict("aerial view of fresh mars craters", f"runs/{ticket['run_id']}", None, 3, 2, 7.5, api_name="/generate")
    assert "2 images" in sentence
    files = [Path(entry["image"]) for entry in drawn]
    assert len(files) == len(base["value"] if isinstance(base, dict) else base) == 2
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files), "images must arrive without loss"
