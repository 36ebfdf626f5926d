"""What each command does, given a plain configuration."""

import sys


def quiet_libraries() -> None:
    """Leave the progress bars of the data library to terminals."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
