"""The forward passes of many architectures as one trie: steps that they begin with in common run once."""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from search_spaces import Architecture
from supernet._prefix_cache import PrefixCache
from supernet._steps import Step, Steps

Path = tuple[Hashable, ...]


class _Node:
    """A value behind the first steps of some architectures, computed when it is first needed.

    path: the images and the way of computing, then the keys of the steps.  takers: children that have yet to
    take the value; behind the last one it is let go.
    """

    __slots__ = ("macs", "parent", "path", "siblings", "step", "takers", "value")

    def __init__(self, path: Path, parent: "_Node | None" = None, step: Step | None = None) -> None:
        self.path, self.parent, self.step = path, parent, step
        self.takers = 0
        self.value: Any = None
        self.siblings: Any = None  # what computes its children, if they are FFNs that do it together
        self.macs = 0  # of the widest of these so far


class Descent:
    """Depth first through tries, counting the work: `macs`, per image.

    siblings: FFNs that differ only in their width run as one.  cache: of values behind steps, which a batch
    of images finds by its id.
    """

    def __init__(self, steps: Steps, *, siblings: bool, cache: PrefixCache | None) -> None:
        self._steps, self._siblings, self._cache = steps, siblings, cache
        self.macs = 0

    def run(
        self, x: Any, archs: Sequence[Architecture], *, batch: Hashable
    ) -> Iterator[tuple[Architecture, Any]]:
        """Each architecture with its output for the images x, whose id is `batch`; in the trie's order."""
        root = _Node(((batch, self._siblings),))
        root.value = x
        return self._below(root, [(arch, self._steps.path(arch)) for arch in archs])

    def _below(
        self, node: _Node, members: Sequence[tuple[Architecture, Path]]
    ) -> Iterator[tuple[Architecture, Any]]:
        depth = len(node.path) - 1
        groups: dict[Hashable, list[tuple[Architecture, Path]]] = {}
        for arch, path in members:
            if depth == len(path):
                yield arch, self._value(node)
            else:
                groups.setdefault(path[depth], []).append((arch, path))
        node.takers = len(groups)
        # From the narrowest FFN to the widest: each adds what the one before lacks.
        steps = sorted(((self._steps[key], key) for key in groups), key=lambda pair: len(pair[0].chunks))
        for step, key in steps:
            yield from self._below(_Node((*node.path, key), node, step), groups[key])

    def _value(self, node: _Node) -> Any:
        if node.value is None:
            if self._cache is not None:
                node.value = self._cache.get(node.path)
            if node.value is None:
                node.value = self._computed(node)
                if self._cache is not None and node.step is not None:
                    # What the step alone costs: counting all steps before it, too, saved less work.
                    self._cache.put(node.path, node.value, size=node.value.nbytes, cost=node.step.macs)
        return node.value

    def _computed(self, node: _Node) -> Any:
        parent, step = node.parent, node.step
        assert parent is not None
        assert step is not None
        if self._siblings and step.chunks:
            if parent.siblings is None:
                parent.siblings = self._steps.siblings(self._value(parent))
            self.macs += step.macs - parent.macs
            parent.macs = step.macs
            value = parent.siblings.output(step.chunks)
        else:
            self.macs += step.macs
            value = step.run(self._value(parent))
        parent.takers -= 1
        if not parent.takers:
            parent.value = None
        return value
