"""`python -m stages.ui PORT`: serve the MLflow UI over all runs so far, to this machine only."""

import os
import sys

from pipeline import entry
from pipeline.errors import ConfigError
from pipeline.tracking import find_root, without_credentials

# Without these the server starts eight workers and a job runner, for which one user has no need.
FRUGAL = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def main(arguments: list[str]) -> None:
    (port,) = entry.arguments_of(arguments, "PORT")
    if not port.isdecimal() or not 1024 <= int(port) <= 65535:
        raise ConfigError(f"PORT must be a number from 1024 to 65535, got {port}")
    root = find_root()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root}/mlflow.db"
    if uri.startswith(("http://", "https://", "databricks")):
        raise ConfigError(
            f"MLFLOW_TRACKING_URI is set, so the runs are on that server: open {without_credentials(uri)} in a browser"
        )
    print(f"MLflow UI on http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    server = ["-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", port]
    store = ["--backend-store-uri", uri, "--artifacts-destination", f"{root}/mlartifacts"]
    os.execve(sys.executable, [sys.executable, *server, *store], {**os.environ, **FRUGAL})


if __name__ == "__main__":
    entry.run(main)
