"""`python -m stages.check EXPERIMENT`: check all parameters and run lists, and that it has a listed run."""

from pipeline import entry
from pipeline.config import Config
from pipeline.errors import ConfigError


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "EXPERIMENT")
    if not Config(entry.root()).runs_of(name):
        raise ConfigError(f"no run of {name} is listed; add one to paper/runs.yaml (README shows how)")


if __name__ == "__main__":
    entry.run(main)
