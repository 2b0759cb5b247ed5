python := ".venv/bin/python"

# A virtual environment for the project with all dependencies
setup:
    python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]'

# The main job, from installation to the report
demo: setup
    .venv/bin/wb sweep experiments/ablation_itm.yaml

test:
    {{python}} -m pytest

# For daily work: without the tests of real processes and servers
test-fast:
    {{python}} -m pytest -m 'not slow'

# Also the slow tests: more signals in more phases, more faults in one of several processes
test-all:
    {{python}} -m pytest -m ''

# Lint, format and types
check:
    {{python}} -m ruff check .
    {{python}} -m ruff format --check .
    {{python}} -m mypy

# Two sweeps under fault injection, twenty minutes each, compared with an undisturbed one (as root: they fill a disk)
soak:
    {{python}} tests/soak.py --minutes 20
    {{python}} tests/soak.py --minutes 20 --cluster

# Nothing here can fail a test. `just bench --list` names the parts, and
# `just bench --only training startup --json bench.json` measures two of them.
# Times, ratios and scaling, over five repeats, about 50 minutes
bench *arguments:
    OMP_NUM_THREADS=1 {{python}} -m tests.benchmarks.bench {{arguments}}

# The speed and memory of one GPU with a large model
bench-gpu:
    {{python}} -m tests.benchmarks.gpu

# The documentation as a site in site/ (extra `docs`). A broken link or a page missing from the menu is an error
docs:
    {{python}} -m mkdocs build --strict

# The same on http://127.0.0.1:8000, rebuilt whenever a page changes
docs-serve:
    {{python}} -m mkdocs serve
