"""`python -m workbench` is `wb`; torchrun starts it so: `torchrun --nproc-per-node 8 -m workbench train FILE`."""

from workbench.cli import main

main()
