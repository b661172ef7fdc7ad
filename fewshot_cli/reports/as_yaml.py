"""Settings as people write them: YAML."""

from collections.abc import Mapping
from typing import Any


def as_yaml(content: Mapping[str, Any]) -> str:
    """Nested settings as YAML, in the order they have, without a last line break."""
    import yaml

    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return text.rstrip()
