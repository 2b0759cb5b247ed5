python := ".venv/bin/python"

# A virtual environment of the project with everything in it
setup:
    python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]'

# The main job, from nothing to a report
demo: setup
    .venv/bin/wb sweep experiments/ablation_itm.yaml

test:
    {{python}} -m pytest

# Also what takes long: more signals in more phases, more faults in one of several processes
test-all:
    {{python}} -m pytest -m ''

# Lint, format and types
check:
    {{python}} -m ruff check .
    {{python}} -m ruff format --check .
    {{python}} -m mypy

# Two sweeps under fire for twenty minutes each, compared with one in peace (as root: they fill a disk of their own)
soak:
    {{python}} tests/soak.py --minutes 20
    {{python}} tests/soak.py --minutes 20 --cluster

# Times, ratios and how they grow, over five repeats, about 25 minutes; nothing here can fail a test. `just bench --list` names the parts, and
# `just bench --only training startup --json bench.json` measures two of them
bench *arguments:
    OMP_NUM_THREADS=1 {{python}} -m tests.benchmarks.bench {{arguments}}

# What one GPU does with a large model
bench-gpu:
    {{python}} -m tests.benchmarks.gpu

# The documentation as a site in site/; needs the extra `docs`. A broken link or a page that the menu lacks is an error
docs:
    {{python}} -m mkdocs build --strict

# The same on http://127.0.0.1:8000, built again whenever a page changes
docs-serve:
    {{python}} -m mkdocs serve
