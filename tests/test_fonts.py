"""Names in any script in figures. A glyph that is missing when a figure is drawn is a warning, and so an error here."""

import matplotlib.text
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg

from manet_jax.inference import Prediction
from manet_jax.report import figures, fonts, page
from tfds_ma52.labels import LabelSet

NAMES = ("点头", "кивок", "إيماءة", "\ue123", "νεύμα 点")  # DejaVu Sans has neither Chinese nor this private character
LABELS = LabelSet(NAMES, ("头部", "руки"), (0, 0, 1, 1, 1))


@pytest.fixture
def use_fonts(monkeypatch, tmp_path):
    """`use_fonts(name=characters)` leaves Matplotlib its own fonts and some of squares; no other test uses the name."""

    def use(**characters):
        own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
        monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
        for name, text in characters.items():
            write_font(tmp_path / f"{name}.ttf", name, text)
            font_manager.fontManager.addfont(tmp_path / f"{name}.ttf")

    return use


def write_font(path, name, characters):
    """Writes a font that has a square for each of some characters."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(0, 0), (0, 700), (700, 700), (700, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square" for character in characters})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (800, 0), "square": (800, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(usWeightClass=500)
    builder.setupPost()
    builder.save(path)


def draw(figure):
    """Draws a figure; returns its texts, and the families of each."""
    FigureCanvasAgg(figure).draw()
    texts = figure.findobj(matplotlib.text.Text)
    return {text.get_text(): text.get_fontfamily() for text in texts if text.get_visible()}


def all_figures():
    """The texts of one figure of each kind that shows names."""
    ones = np.full(5, 0.2)
    window = Prediction("talk 点.mp4", 0.0, 2.0, True, "", ones, np.array([0.5, 0.5]), LABELS, ("高兴", "fear"))
    rng = np.random.default_rng(0)
    return [
        draw(figures.plot_confusion(np.eye(5), NAMES, LABELS.groups)),
        draw(figures.plot_class_f1(ones, np.arange(5), LABELS)),
        draw(figures.plot_embedding(rng.random((5, 4)), np.eye(5, dtype=bool), LABELS, rng.random((5, 4)))),
        draw(figures.plot_timeline([window])),
    ]


def test_a_name_that_no_font_has_is_drawn_as_its_id(use_fonts):
    use_fonts()
    assert fonts.drawable(NAMES) == ["class 0", "кивок", "إيماءة", "class 3", "class 4"]
    confusion, f1, embedding, timeline = all_figures()
    assert {"class 0 (1)", "кивок (1)", "إيماءة (1)", "class 3 (1)", "class 4 (1)"} <= confusion.keys()
    assert {"class 0", "кивок", "إيماءة", "class 3", "class 4", "group 0", "руки"} <= f1.keys()
    assert {"0 class 0", "1 кивок", "2 إيماءة", "3 class 3", "4 class 4", "group 0", "руки"} <= embedding.keys()
    assert {"class 0 (group 0)", "кивок (group 0)", "class 3 (руки)", "emotion 0", "fear", "talk ?.mp4"} <= (
        timeline.keys()
    )


def test_a_name_that_another_font_has_is_drawn_with_it(use_fonts, caplog):
    use_fonts(Squares="点头部", Joy="高兴点")
    assert fonts.drawable(NAMES) == ["点头", "кивок", "إيماءة", "class 3", "νεύμα 点"]
    confusion, f1, embedding, timeline = all_figures()
    assert confusion["点头 (1)"][-1] == f1["点头"][-1] == embedding["0 点头"][-1] == f1["头部"][-1] == "Squares"
    assert timeline["高兴"][-1] == "Joy"
    assert "talk 点.mp4" in timeline
    # What the default font has is drawn with it alone.
    assert confusion["кивок (1)"] == timeline["fear"] == ["sans-serif"]
    assert not caplog.records  # that there is no such font of weight 400


def test_dollar_signs_are_no_formula():
    names = ("$x_1$", "costs $ 5", "a", "b", "c")
    drawn = draw(figures.plot_confusion(np.eye(5), names, LABELS.groups))
    assert r"\$x_1\$ (1)" in drawn  # as Matplotlib is given it
    text = matplotlib.text.Text(text=fonts.plain("$x_1$"))
    assert text._preprocess_math(text.get_text()) == ("$x_1$", False)  # as it draws it


def test_each_character_gets_a_font_that_has_it(use_fonts):
    use_fonts(Left="点", Right="头", Neither="好")
    assert fonts.fallbacks("a点\n头") == ["Left", "Right"]
    assert fonts.fallbacks("点") == ["Left"]
    assert fonts.fallbacks("abc кивок") == []
    assert fonts.fallbacks("点头动") is None


def test_matplotlibs_fonts_of_symbols_are_not_for_names(use_fonts):
    """STIXNonUnicode has symbols in the private area, LastResort a box for every character."""
    use_fonts()
    having = {entry.name for entry in font_manager.fontManager.ttflist if 0xE123 in fonts.characters_of(entry.fname)}
    assert having
    assert fonts.fallbacks("\ue123") is None


def test_frames_and_titles_have_question_marks_where_no_font_helps(use_fonts):
    use_fonts(Titles="点")
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    texts = draw(figures.plot_frames([("点头.mp4, wrong: nodding", frames, None)]))
    assert texts["点?.mp4, wrong: nodding"][-1] == "Titles"


def test_report_lists_the_names_that_its_pictures_lack(use_fonts):
    use_fonts(Report="点头")
    assert page.list_ids(LABELS) == (
        "<p>No font of this machine has all characters of these names, so the pictures show ids: "
        "class 3 is \ue123, group 0 is 头部.</p>"
    )
    assert page.list_ids(LabelSet(("<a>", "b"), ("c", "d"), (0, 1))) == ""
