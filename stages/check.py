"""`python -m stages.check EXPERIMENT`: check all parameters and run lists; print what DVC is to reproduce."""

from pipeline import entry
from pipeline.config import Config
from pipeline.errors import ConfigError


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "EXPERIMENT")
    config = Config(entry.root())
    if not config.runs_of(name):
        raise ConfigError(f"no run of {name} is listed; add one to paper/runs.yaml (README shows how)")
    print(f"{config.pipeline_file(name)}:report@{name}")


if __name__ == "__main__":
    entry.run(main)
