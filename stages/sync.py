"""Send the tracked numbers that MLflow has not got yet: `make sync`."""

from pipeline import entry
from pipeline.tracking import find_root, sync


def main(arguments: list[str]) -> None:
    entry.arguments_of(arguments)
    print("\n".join(sync(find_root())))


if __name__ == "__main__":
    entry.run(main)
