"""A Chromium spoken to over its own pipe, with only the few commands that are needed.

Test drivers switch on the network inspector, which keeps up to 200 MB of responses in the page's own process: memory
cannot be measured under them.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from backend.errors import InputError

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"]
PATIENCE_SECONDS = 120.0
MEBIBYTE = 2**20


class Tab:
    """One page of a browser.

    Args:
        process: the browser.
        commands: descriptor that it reads from.
        answers: descriptor that it writes to.
    """

    def __init__(self, process: psutil.Process, commands: int, answers: int) -> None:
        self.process, self._commands, self._answers = process, commands, answers
        self._number, self._unread, self._session = 0, b"", ""

    def attach(self, address: str) -> None:
        """Open a page and speak to it from now on."""
        target = self.send("Target.createTarget", url=address)["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its answer.

        Raises:
            InputError: the browser refuses it or is silent for two minutes.
        """
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters, **({"sessionId": self._session} if self._session else {})}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            pass
        if "error" in answer:
            raise InputError(f"the browser refuses {method}: {answer['error'].get('message')}")
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], PATIENCE_SECONDS)
            more = os.read(self._answers, 2**20) if ready else b""
            if not more:
                raise InputError(f"Chromium at {CHROMIUM} is silent or has ended")
            self._unread += more
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        """Value of a script's expression."""
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true.

        Raises:
            InputError: not within two minutes.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while not self.evaluate(expression):
            if time.monotonic() > end:
                raise InputError(f"the page did not come to {expression} within {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.2)

    def memory(self) -> dict[str, float]:
        """After a garbage collection: script heap and what the renderer process has for itself (MiB), nodes and listeners."""
        self.send("HeapProfiler.collectGarbage")
        found = {m["name"]: m["value"] for m in self.send("Performance.getMetrics")["metrics"]}
        renderers = [p for p in self.process.children(recursive=True) if "--type=renderer" in p.cmdline()]
        own = max(p.memory_full_info().uss for p in renderers)
        return {"heap_mib": found["JSHeapUsedSize"] / MEBIBYTE, "renderer_mib": own / MEBIBYTE, "nodes": found["Nodes"], "listeners": found["JSEventListeners"]}


@contextmanager
def opened(address: str, width: int, height: int) -> Iterator[Tab]:
    """A browser with one page at an address.

    Raises:
        InputError: there is no Chromium, or it does not answer.
    """
    if not Path(CHROMIUM).is_file():
        raise InputError(f"Chromium is not at {CHROMIUM}: install it or name it in CHROMIUM")
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    high_in, high_out = (fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (theirs_in, theirs_out))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]

        def plug() -> None:
            os.dup2(high_in, 3)  # the numbers that Chromium expects
            os.dup2(high_out, 4)

        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(3, 4), preexec_fn=plug)
        for fd in (theirs_in, theirs_out, high_in, high_out):
            os.close(fd)
        try:
            tab = Tab(psutil.Process(process.pid), commands, answers)
            tab.attach(address)
            tab.send("Performance.enable")
            yield tab
        finally:
            process.terminate()
            process.wait(30)
            os.close(commands)
            os.close(answers)
