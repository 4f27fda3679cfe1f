"""`python -m triptych` is `triptych`."""

from triptych.cli import main

main()
