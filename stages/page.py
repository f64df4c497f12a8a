"""Write the page of all results, REPORT.md and report.html, from the ledger and its curves.

python -m stages.page
"""

from pipeline import entry
from pipeline.files import write_bytes
from pipeline.report.page import FIGURES_FOLDER, HTML_FILE, MARKDOWN_FILE, build


def main(arguments: list[str]) -> None:
    entry.arguments_of(arguments)
    root = entry.root()
    page = build(root)
    for stale in set((root / FIGURES_FOLDER).glob("*.svg")) - {root / place for place in page.figures}:
        stale.unlink()
    for place, text in {**page.figures, MARKDOWN_FILE: page.markdown, HTML_FILE: page.html}.items():
        write_bytes(root / place, text.encode())
    print(f"wrote {MARKDOWN_FILE} and {HTML_FILE} ({len(page.html.encode()) / 1e6:.1f} MB)")


if __name__ == "__main__":
    entry.run(main)
