"""Whether any of many topic filters matches a topic, at a cost that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable


class _Node:
    __slots__ = ("children", "holders")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.holders = 0
        """How often the filter that ends here was added."""


class FilterTree:
    """Filters, each as often as it was added, one level of the tree for each of their levels (MQTT 3.1.1 §4.7)."""

    def __init__(self) -> None:
        self._root = _Node()
        self._distinct = 0

    def __len__(self) -> int:
        """Distinct filters."""
        return self._distinct

    def __contains__(self, topic_filter: str) -> bool:
        node: _Node | None = self._root
        for level in topic_filter.split("/"):
            node = node.children.get(level) if node is not None else None
        return node is not None and node.holders > 0

    def add(self, topic_filter: str) -> bool:
        """Add a filter once more; whether it is new."""
        node = self._root
        for level in topic_filter.split("/"):
            node = node.children.setdefault(level, _Node())
        node.holders += 1
        self._distinct += node.holders == 1
        return node.holders == 1

    def discard(self, topic_filter: str) -> bool:
        """Take a filter out once; whether it is in no more."""
        path = [self._root]
        levels = topic_filter.split("/")
        for level in levels:
            child = path[-1].children.get(level)
            if child is None:
                return False
            path.append(child)
        if not path[-1].holders:
            return False
        path[-1].holders -= 1
        if path[-1].holders:
            return False
        self._distinct -= 1
        for parent, level in zip(reversed(path[:-1]), reversed(levels), strict=True):
            child = parent.children[level]
            if child.holders or child.children:
                break
            del parent.children[level]
        return True

    def matches(self, topic: str) -> bool:
        """Whether one of the filters receives this topic."""
        nodes: Iterable[_Node] = (self._root,)
        for index, level in enumerate(topic.split("/")):
            # wildcards at the first level do not receive what belongs to the broker (§4.7.2)
            wild = index > 0 or not level.startswith("$")
            following = []
            for node in nodes:
                if wild and "#" in node.children:
                    return True
                if (child := node.children.get(level)) is not None:
                    following.append(child)
                if wild and (child := node.children.get("+")) is not None:
                    following.append(child)
            if not following:
                return False
            nodes = following
        return any(node.holders or "#" in node.children for node in nodes)
