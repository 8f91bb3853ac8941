"""What a server's processes hold in memory while something goes on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.stack import Server

_EVERY_S = 0.05


class Watch:
    """Follows the resident memory of a server's processes, as (at first, at most) by process id."""

    def __init__(self, server: Server) -> None:
        """Note what they have now."""
        self._processes = server.processes()
        self._is_over = threading.Event()
        now = {process.pid: int(process.memory_info().rss) for process in self._processes}
        self.found = {pid: (resident, resident) for pid, resident in now.items()}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look again and again while the block lasts."""
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def growth(self) -> int:
        """The most that one of them grew by, in bytes."""
        return max(most - before for before, most in self.found.values())

    def _look(self) -> None:
        while not self._is_over.wait(_EVERY_S):
            for process in self._processes:
                before, most = self.found[process.pid]
                self.found[process.pid] = before, max(most, int(process.memory_info().rss))
