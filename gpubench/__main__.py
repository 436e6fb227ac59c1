"""`python -m gpubench` is the same program as `gpubench`."""

from gpubench.cli import main

main()
