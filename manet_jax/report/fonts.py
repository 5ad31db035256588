"""Fonts for names in any script: those installed on the machine, and what is drawn where none has the characters."""

import functools
import logging
import pathlib
from collections.abc import Sequence

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text


def drawable(names: Sequence[str], kind: str = "class") -> list[str]:
    """The names, but an id such as "class 12" for one with a character that no installed font has."""
    return [f"{kind} {i}" if fallbacks(name) is None else plain(name) for i, name in enumerate(names)]


def plain(text: str) -> str:
    """A text that Matplotlib draws as it is, rather than as a formula where there are two dollar signs."""
    return text.replace("$", r"\$")


def make_legible(figure: Figure) -> Figure:
    """Gives each text of a figure the fonts that it needs, and question marks for characters that no font has.

    Those are characters of titles: ids stand for names, see `drawable`.
    """
    for text in filter(Text.get_text, figure.findobj(Text)):
        if fallbacks(text.get_text()) is None:
            text.set_text("".join("?" if fallbacks(character) is None else character for character in text.get_text()))
        if families := fallbacks(text.get_text()):
            text.set_fontfamily([*text.get_fontfamily(), *families])
    return figure


def fallbacks(text: str) -> list[str] | None:
    """The families that have the characters of a text which the default font lacks; None if one is in no font."""
    missing, families = set(map(ord, text)) - {ord("\n")}, []
    missing -= characters_of(font_manager.findfont(FontProperties()))
    for entry in font_manager.fontManager.ttflist if missing else ():
        if missing & characters_of(entry.fname) and _is_for_text(entry.fname):
            # Else Matplotlib reports at each text where a family has another weight than the default one.
            logging.getLogger(font_manager.__name__).setLevel(logging.ERROR)
            # The file that Matplotlib takes for the family, which may be another one of it.
            found = missing & characters_of(font_manager.findfont(FontProperties(family=[entry.name])))
            families += [entry.name] if found else []
            missing -= found
    return None if missing else families


@functools.cache
def characters_of(path: str) -> frozenset[int]:
    """The code points that a font file has a glyph for."""
    return frozenset(FT2Font(path).get_charmap())


def _is_for_text(path: str) -> bool:
    """Whether a font is not one of boxes for all characters, nor of Matplotlib's own ones for formulas."""
    return "LastResort" not in path and not pathlib.Path(path).is_relative_to(matplotlib.get_data_path())
