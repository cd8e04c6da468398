"""How much longer than usual tests wait that watch the clock."""

import os

PATIENCE = float(os.environ.get("BROWSER_PATIENCE", "1"))  # raise it on a busy machine
