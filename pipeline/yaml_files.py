"""The only reader and writer of YAML."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are those of YAML 1.2: DVC writes 3e-5 as `3e-05`, which 1.1 reads as text.

    A key that stands twice is an error, as for DVC.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:float"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: the file is missing or not YAML; names the line.
    """
    try:
        return yaml.load(path.read_text(), _Loader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; run the command from the project's top folder") from error
    except (yaml.YAMLError, ValueError) as error:  # a day that is in no calendar is a ValueError
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def yaml_text(value: Any) -> str:
    """A value as YAML, keys in their order."""
    return yaml.safe_dump(value, sort_keys=False, width=200)


def line_of(path: Path, place: Sequence[str | int]) -> int:
    """The line, from 1, of a key or list entry; of what is nearest to it where it does not exist."""
    node = yaml.compose(path.read_text(), _Loader)
    for key in place:
        if isinstance(node, yaml.MappingNode):
            inner = [value for name, value in node.value if name.value == str(key)]
        else:
            inner = node.value[key : key + 1] if isinstance(node, yaml.SequenceNode) and isinstance(key, int) else []
        if not inner:
            break
        node = inner[0]
    return node.start_mark.line + 1
