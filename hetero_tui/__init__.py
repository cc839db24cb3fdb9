"""What a person sees: the command line, the screens and the widgets of hetero-tui."""

__version__ = "0.1.0"
