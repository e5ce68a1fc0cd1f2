"""YAML as people write it: a key that stands twice is refused, for one of the two would be lost."""

from __future__ import annotations

from typing import Any

import yaml


class _Once(yaml.SafeLoader):
    """Plain YAML in which no mapping names a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See `yaml.SafeLoader`.

        Raises:
            yaml.constructor.ConstructorError: a key stands twice.
        """
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in lines:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{key.value!r} stands in lines {lines[key.value]} and {line}"
                    )
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """The value that a YAML text holds.

    Raises:
        yaml.YAMLError: it is not YAML, or names a key twice in one mapping.
    """
    return yaml.load(text, _Once)
