"""Rewrite the generated tables of the README from the ledger, or check that they are up to date.

python -m stages.tables [--check]
"""

from argparse import ArgumentParser

from pipeline import entry
from pipeline.errors import ArtifactError
from pipeline.files import write_bytes
from pipeline.report.document import readme_tables
from pipeline.report.render import replace_tables

README = "README.md"


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m stages.tables")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    file = entry.root() / README
    if not file.is_file():
        raise ArtifactError(f"{README} does not exist; run the command from the project's top folder")
    text = file.read_text()
    fresh = replace_tables(text, readme_tables(entry.root()), README)
    if options.check and fresh != text:
        raise ArtifactError(f"the tables in {README} are out of date; run `make tables`")
    if fresh != text:
        write_bytes(file, fresh.encode())
        print(f"rewrote the tables in {README}")


if __name__ == "__main__":
    entry.run(main)
