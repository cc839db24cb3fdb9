"""Themes of our own, beside those of Textual: one for the most contrast, one that needs no red and green."""

from __future__ import annotations

from typing import Final

from textual.theme import Theme

HIGH_CONTRAST: Final = Theme(
    name="high-contrast",
    primary="#5fd7ff",
    secondary="#ffffff",
    accent="#ffff00",
    warning="#ffd700",
    error="#ff8787",
    success="#5fff87",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#303030",
    dark=True,
    variables={
        "block-cursor-background": "#ffff00",
        "block-cursor-foreground": "#000000",
        "footer-key-foreground": "#ffff00",
        "text-muted": "#ffffff",
        "text-disabled": "#c0c0c0",
    },
)

COLOUR_BLIND: Final = Theme(
    # The palette of Okabe and Ito, "Color Universal Design" (2008): told apart with any kind of colour vision.
    name="colour-blind",
    primary="#56b4e9",
    secondary="#cc79a7",
    accent="#f0e442",
    warning="#e69f00",
    error="#d55e00",
    success="#56b4e9",
    foreground="#f0f0f0",
    background="#101418",
    surface="#1a2026",
    panel="#26303a",
    dark=True,
    variables={"block-cursor-background": "#f0e442", "block-cursor-foreground": "#000000"},
)

OWN_THEMES: Final = (HIGH_CONTRAST, COLOUR_BLIND)
