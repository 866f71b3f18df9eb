"""YAML is bounded in size with its aliases written out: a few lines that name each other can stand for billions of
values."""

from __future__ import annotations

import yaml

LONGEST = 2**20
MOST_VALUES = 20_000


def bounded(text: str) -> str:
    """The text, to be loaded.

    Raises:
        ValueError: it is too long, or stands for too much.
        yaml.YAMLError: it is not YAML.
    """
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters, at most {LONGEST:,} are read")
    if "*" not in text:  # no aliases
        return text
    sizes: dict[str, float] = {}
    under_way: list[tuple[str | None, float]] = []
    total: float = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            under_way.append((event.anchor, total))
            sizes |= {event.anchor: float("inf")} if event.anchor else {}  # within itself
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = under_way.pop()
            sizes |= {anchor: total - before} if anchor else {}
        elif isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            sizes |= {event.anchor: 1} if event.anchor else {}
        if total > MOST_VALUES:
            raise ValueError(f"with its aliases written out it has more than {MOST_VALUES:,} values")
    return text
