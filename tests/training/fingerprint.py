"""What two runs must share to the bit: rows without clock and memory columns, pictures, last checkpoint."""

import csv

from backend.training.checkpoint import file_sha256

UNSTEADY = {"timestamp", "time", "time_per_episode", "memory_allocated", "resident_mib", "peak_mib"}


def fingerprint(run) -> dict:
    found = {}
    for path in sorted(run.logs_dir.glob("*.csv")):
        with open(path, newline="") as file:
            found[path.name] = [{k: v for k, v in row.items() if k not in UNSTEADY} for row in csv.DictReader(file)]
    found |= {path.name: path.read_bytes() for path in sorted(run.images_dir.glob("*"))}
    last = run.checkpoints()[-1]
    found["checkpoint"] = (last.name, file_sha256(last.path / "trainer.safetensors"), (last.path / "trainer.json").read_text())
    return found
