"""How far apart tensors are, from ranged reads of both sides: by a worker, a window at a time, never a tensor whole."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from registry.services.diffs import Layout, Task
from registry.storage.s3 import Store
from registry.weights.diff import Distance, Pair
from registry.weights.distance import Sums, item_size, measure

_WINDOW: Final = 4 << 20
_THREADS: Final = 2

_Window = tuple[Task, int, int]
"""A task, and the first element and the number of elements to look at."""


def distances(store: Store, tasks: Sequence[Task]) -> list[tuple[Pair, Distance]]:
    """Measure some pairs of tensors, two windows at once; the result does not depend on which thread was faster.

    Raises ObjectMissingError or StorageUnavailableError.
    """
    own = threading.local()

    def look(window: _Window) -> Sums:
        if not hasattr(own, "eyes"):
            own.eyes = _Eye(store), _Eye(store)
        task, first, count = window
        a_dtype, b_dtype = task.pair[2:]
        a_size, b_size = item_size(a_dtype), item_size(b_dtype)
        left, right = own.eyes
        a = left.look(task.a, task.a_offset + first * a_size, count * a_size)
        b = right.look(task.b, task.b_offset + first * b_size, count * b_size)
        return measure(a, b, a_dtype=a_dtype, b_dtype=b_dtype)

    windows = [window for task in tasks for window in _windows(task)]
    total: dict[Pair, Sums] = {task.pair: Sums() for task in tasks}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="measure") as pool:
        for (task, _, _), sums in zip(windows, pool.map(look, windows), strict=True):
            total[task.pair] += sums
    return [(pair, sums.distance()) for pair, sums in total.items()]


def _windows(task: Task) -> Iterator[_Window]:
    step = _WINDOW // max(map(item_size, task.pair[2:]))
    for first in range(0, task.element_count, step):
        yield task, first, min(step, task.element_count - first)


class _Eye:
    """Looks at one range of one side after another. It keeps the last segment: small tensors lie many to a segment."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._buffer = memoryview(bytearray(_WINDOW))
        self._held = ""

    def look(self, layout: Layout, offset: int, size: int) -> memoryview:
        """The bytes there, good until the next look."""
        stretch = layout.at(offset)
        if stretch.size <= _WINDOW and offset + size <= stretch.offset + stretch.size:
            if self._held != stretch.key:
                self._held = ""
                self._store.read_into(stretch.key, self._buffer[: stretch.size])
                self._held = stretch.key
            begin = offset - stretch.offset
            return self._buffer[begin : begin + size]
        self._held = ""
        filled = 0
        while filled < size:
            stretch = layout.at(offset + filled)
            within = offset + filled - stretch.offset
            take = min(stretch.size - within, size - filled)
            self._store.read_into(stretch.key, self._buffer[filled : filled + take], offset=within)
            filled += take
        return self._buffer[:size]
