"""The file that `just bench --json FILE` writes, as the tables of docs/performance.md.

python -m tests.benchmarks.tables FILE
"""

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import part
from tests.benchmarks.figures import Figure, extent, short


def tables(written: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines."""
    yield f"Commit {written['commit']}, {written['date'][:10]}, {written['device']}, torch {written['torch']}."
    for name, rows in written["figures"].items():
        yield from ("", f"### `--only {name}`", "", textwrap.fill(part(name)[1], 120), "")
        yield from ("| figure | median (range) | unit, clock |", "|---|---|---|")
        for row in rows:
            made = Figure(row["name"], row["unit"], tuple(row["values"]), row["note"])
            cells = (
                made.name,
                f"{short(made.median)} {extent(made)}".strip(),
                "; ".join(filter(None, (made.unit, made.note))),
            )
            yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(*tables(json.loads(Path(sys.argv[1]).read_text())), sep="\n")
