"""`--max-hours`: decides which blocks of seeds may still start.

The sweep's own process decides, since the clocks of two machines cannot be compared. It writes its decision, a `Gate`,
into the study. Workers of any launcher on any machine claim only what the gate lets through. Every started block is
therefore finished, and all arms have the same number of seeds.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from workbench.sweep.search import Plan
from workbench.trial.cell import Cell
from workbench.trial.ledger import Gate


@dataclass
class Hours:
    """Decides at each look at the study. The limit is `seconds` from now on. The workers can run `side_by_side` blocks
    at once. `clock` returns monotonic seconds."""

    seconds: float
    side_by_side: int = 1
    clock: Callable[[], float] = time.monotonic
    begun: dict[int, float] = field(default_factory=dict)  # seed -> when its block started
    took: dict[int, float] = field(default_factory=dict)  # seed -> seconds that its block took
    trains_from: float | None = None  # when the first training step was seen: preparation is not part of a block
    closed: bool = False

    def __post_init__(self) -> None:
        self.began = self.clock()

    def look(self, plan: Plan, open_cells: Collection[Cell], claimed: Collection[str], trains: bool) -> Gate:
        """Returns what may be claimed from now on. `open_cells` still need work, `claimed` are the keys of those that a
        worker has. `trains`: some worker has done a training step.

        A block starts when all cells of earlier blocks are claimed or done. It does not start where a block as long as
        the longest one so far would not end in time, nor before one block has ended, since no duration is known until
        then. The first blocks, for which there are workers, always start. Search trials come before all blocks; none
        starts after the time limit.
        """
        now = self.clock()
        if trains and self.trains_from is None:
            self.trains_from = now
        waiting = {cell.seed for cell in open_cells if cell.searching is None}
        unclaimed = {cell.seed for cell in open_cells if cell.searching is None and cell.key not in claimed}
        for seed in self.begun.keys() - waiting - self.took.keys():
            self.took[seed] = now - max(self.begun[seed], self.trains_from or 0.0)
        if not plan.whole:
            self.closed = now >= self.began + self.seconds
        if plan.whole and not self.closed:
            for seed in sorted(waiting - self.begun.keys()):
                if not self._begins(now, unclaimed):
                    break
                self.begun[seed] = now
        return Gate(max(self.begun) + 1 if self.begun else None, self.closed, limited=True)

    def _begins(self, now: float, unclaimed: set[int]) -> bool:
        """Returns whether another block starts now. Closes the gate where there is no time for it."""
        if len(self.begun) < self.side_by_side:
            return True
        if unclaimed & self.begun.keys() or not self.took:
            return False
        self.closed = now + max(self.took.values()) > self.began + self.seconds
        return not self.closed


def held_back(plan: Plan, gate: Gate, ended: Collection[str]) -> int:
    """Returns how many trials of the plan a closed gate has prevented, including those that a search would still have
    added."""
    if not gate.closed:
        return 0
    known = sum(not gate.lets(cell.seed, cell.searching is not None) and cell.key not in ended for cell in plan.cells)
    return known + plan.total - len(plan.cells)
