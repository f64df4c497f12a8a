"""`python -m stages.clean`: forget what unfinished stages kept; those that run now, and finished results, stay."""

from pipeline import entry
from pipeline.resume import forget


def main(arguments: list[str]) -> None:
    entry.arguments_of(arguments)
    for name, running in forget(entry.root()).items():
        print(f"{name}: {'runs now, left alone' if running else 'forgotten'}")


if __name__ == "__main__":
    entry.run(main)
