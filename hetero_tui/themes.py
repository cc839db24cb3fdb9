"""Themes beside those of Textual: for the most contrast, without red and green, and its light one made readable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from textual.color import Color
from textual.theme import BUILTIN_THEMES, Theme

MUTED: Final = 0.65
"""How much of the foreground is in muted text; the rest is background."""

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

LIGHT: Final = replace(
    # Textual's own writes what is accented, warned of and good at 2.8 to 3.2:1 on its panels, too faint for text:
    # WCAG 2.2, 1.4.3, asks for 4.5:1.
    BUILTIN_THEMES["textual-light"],
    variables={
        "text-accent": "#774600",
        "text-warning": "#774600",
        "text-success": "#125c2c",
        "footer-key-foreground": "#004578",
    },
)

OWN_THEMES: Final = (HIGH_CONTRAST, COLOUR_BLIND, LIGHT)


def muted(variables: Mapping[str, str]) -> str:
    """Return the colour of muted text in the theme that these style sheet variables belong to.

    Textual's own is ``auto 60%``, which pieces of a text that have a style of their own paint in pure black or white:
    what should stand back would stand out.
    """
    own = variables["text-muted"]
    if not own.startswith("auto") or variables["background"].startswith("ansi"):
        return own
    return Color.parse(variables["background"]).blend(Color.parse(variables["foreground"]), MUTED).hex
