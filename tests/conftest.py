"""One thread a test process: results do not depend on the machine, and tests do not fight over cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
