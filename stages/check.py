"""`python -m stages.check EXPERIMENT`: check all parameters and run lists, and that the experiment is listed."""

from pipeline import entry
from pipeline.config import Config


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "EXPERIMENT")
    Config(entry.root()).experiment(name)


if __name__ == "__main__":
    entry.run(main)
