"""Time that is left, and progress bars of the phases that take it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
import time

from tqdm import tqdm


@dataclass
class Clock:
    """A budget of time, and how long each phase has taken.

    :param budget: in seconds.
    :param shows: whether to show progress bars.
    :param seconds: by phase, in order.
    :param interrupted: names of phases that Ctrl-C has ended.
    """

    budget: float
    shows: bool = True
    seconds: dict[str, float] = field(default_factory=dict)
    interrupted: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds until the budget ends; negative after that."""
        return self.budget - (time.perf_counter() - self.started)

    @property
    def is_over(self) -> bool:
        """Whether no new work may begin."""
        return self.left <= 0.0

    @contextmanager
    def phase(
        self, name: str, total: int = 1, unit: str = "part", *, whole: bool = False
    ) -> Iterator[tqdm]:
        """A phase with a progress bar. Ctrl-C ends it and keeps what was done in it.

        :param total: units of work.
        :param whole: whether a part is of no use, so that Ctrl-C ends everything.
        """
        before = time.perf_counter()
        bar = tqdm(total=total, desc=name, unit=unit, disable=not self.shows, mininterval=0.5)
        try:
            yield bar
            if whole:
                bar.update(total)
        except KeyboardInterrupt:
            if whole:
                raise
            self.interrupted.append(name)
        finally:
            bar.close()
            spent = time.perf_counter() - before
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
