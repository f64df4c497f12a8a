"""Timings as rows, one a network, engine, batch and number of threads, and as the nested metrics that files keep."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

NOT_INSTALLED, NOT_COMPILED = "not installed", "cannot be compiled"
SETTING = re.compile(r"batch_(\d+)_threads_(\d+)")
Nested = Mapping[str, Mapping[str, Any]]


def nested(rows: Iterable[Mapping[str, Any]], absent: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, Any]]:
    """Network, engine, setting: what DVC and MLflow show as one number each; `absent`: (network, engine, why)."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        engine = found.setdefault(row["network"], {}).setdefault(row["engine"], {"bytes": row["bytes"]})
        times = {key: row[key] for key in ("median_ms", "q1_ms", "q3_ms")}
        engine[f"batch_{row['batch']}_threads_{row['threads']}"] = times
    for network, name, why in absent:
        found.setdefault(network, {})[name] = why
    return found


def flat(runtimes: Nested) -> list[dict[str, Any]]:
    """The rows that `nested` was made of; a text stands for an engine without any."""
    return [
        {"network": network, "engine": engine, "batch": int(match[1]), "threads": int(match[2]),
         "bytes": settings["bytes"], **times}
        for network, engines in runtimes.items()
        for engine, settings in engines.items() if not isinstance(settings, str)
        for setting, times in settings.items() if (match := SETTING.fullmatch(setting))
    ]  # fmt: skip


def not_installed(runtimes: Nested) -> set[str]:
    """The engines that were not installed where the timing ran."""
    return {name for engines in runtimes.values() for name, settings in engines.items() if settings == NOT_INSTALLED}
