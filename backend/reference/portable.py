"""Run a job in a process whose arithmetic is the same on every x86-64 machine.

NumPy, PyTorch and oneDNN choose routines by the processor's features, and their last bits differ: of the pixels that
the renderer draws about 5 in a million change by one level between AVX-512, AVX2 and SSE. A reference set that is
rebuilt bit for bit therefore comes from a process in which they are held to what all these processors have.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import InputError

INPUT_ERROR = 2
_ROOT = Path(__file__).resolve().parents[2]


def portable_environment() -> dict[str, str]:
    """Environment variables for such a process; read by the libraries when they are loaded, so too late for this one."""
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    held = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(found),  # back to the baseline that the wheel was compiled for
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **held, "PYTHONPATH": path}


def run_portably(module: str, request: dict[str, Any]) -> Any:
    """Run `python -m module REQUEST ANSWER` with the environment above and return the answer.

    Args:
        module: one whose main is `answer_request(function)`.
        request: JSON-able keyword arguments of that function.

    Raises:
        InputError: the function raised it, or the process ended otherwise than well.
    """
    with tempfile.TemporaryDirectory(prefix="crater-") as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(request))
        done = subprocess.run([sys.executable, "-m", module, str(asked), str(answered)], env=portable_environment(), check=False)
        if not answered.is_file():
            raise InputError(f"the process of {module} ended with status {done.returncode} and no answer: its messages are above")
        answer = json.loads(answered.read_text())
    if done.returncode == INPUT_ERROR:
        raise InputError(answer["error"])
    return answer["result"]


def answer_request(function: Callable[..., Any]) -> int:
    """Main of a module that `run_portably` starts: call the function with the request, write its answer.

    Returns:
        The exit status: 0, or 2 after an `InputError`.
    """
    asked, answered = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        result = function(**json.loads(asked.read_text()))
    except InputError as error:
        answered.write_text(json.dumps({"error": str(error)}))
        return INPUT_ERROR
    answered.write_text(json.dumps({"result": result}))
    return 0
