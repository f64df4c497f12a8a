"""What stands in `paper/` about claims and published numbers, read and checked; a mistake names its line."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.method_params import Block
from pipeline.yaml_files import line_of, read_yaml

AnyBlock = TypeVar("AnyBlock", bound=Block)


def read_checked(root: Path, file: Path, kind: type[AnyBlock]) -> AnyBlock:
    """A YAML file of `paper/` as a checked block.

    Raises:
        ConfigError: the file is missing, or has mistakes; each with its line, what it breaks and the value.
    """
    content = read_yaml(root / file)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = [f"line {line_of(root / file, found['loc'])}: {_sentence(found)}" for found in error.errors()]
        raise ConfigError("\n  ".join([f"{file}: {len(problems)} to correct", *problems])) from error


def _sentence(found: Any) -> str:
    key = ".".join(map(str, found["loc"]))
    rule = found["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if found["type"] == "missing":
        return f"{key} is missing"
    if found["type"] == "extra_forbidden":
        return f"{key} is not a known field; correct its spelling or delete it"
    return f"{key}: {rule}" if found["type"] == "value_error" else f"{key} {rule}, got {found['input']!r}"
