"""The README says only what is so."""

import re
from pathlib import Path

import torch

from pipeline.report.document import readme_tables
from pipeline.report.render import replace_tables
from tests.project import ROOT


def test_the_tables_are_those_of_the_ledger():
    text = (ROOT / "README.md").read_text()
    assert replace_tables(text, readme_tables(ROOT), "README.md") == text


def test_every_make_target_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"repro", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_the_lines_for_deployment_work_as_written(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    with torch.no_grad():
        expected = names["network"](torch.zeros(64, 1, 28, 28))
    assert torch.allclose(torch.from_numpy(names["logits"]), expected, atol=1e-4)


def test_every_linked_file_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert not [link for link in links if not Path(ROOT, link).exists()]
