"""``python -m hetero_tui`` is ``hetero-tui``."""

from hetero_tui.cli import main

if __name__ == "__main__":
    main()
