"""The page of a video in a browser. Times that are compared are those of the page's script."""

import csv
import dataclasses

import numpy as np
import pytest
from player_examples import FPS, drawn_page, long_page, start_chromium

from manet_jax.detection.segments import Segment, distinct
from manet_jax.report.player import index, video_page
from manet_jax.report.player.video_page import VideoPage
from tfds_ma52.labels import MA52, LabelSet

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

ACTIONS = (9, 41, 13, 28, 9)
MISSING = "Failed to load resource: net::ERR_FILE_NOT_FOUND"
FRAME = 50  # milliseconds that drawing may take


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = start_chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture
def show(chromium):
    """`show(path, width=1400, height=900, errors=[])` opens a page that may write no other errors."""
    # Nor may it use the network.
    contexts, messages, expected = [], [], []

    def show(path, *, width=1400, height=900, errors=()):
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(15_000)
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requested(request.url))
        expected.extend(errors)
        tab.goto(path.as_uri())
        return tab

    def requested(address):
        if not address.startswith(("file:", "data:", "blob:")):
            messages.append(address)

    yield show
    for context in contexts:
        context.close()
    assert messages == expected


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """What the page of a drawn video shows, and the page."""
    folder = tmp_path_factory.mktemp("drawn")
    data = drawn_page(folder / "drawn.mp4", ACTIONS, short_side=64)
    video_page.write_page(data, folder / "drawn.html", index="index.html")
    index.write_index([(data, folder / "drawn.html")], folder / "index.html")
    return data, folder / "drawn.html"


@pytest.fixture
def tab(drawn, show):
    page = show(drawn[1])
    wait_until(page, "video.readyState >= 2")
    return page


@pytest.fixture(scope="module")
def half_hour(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    data = long_page(folder / "missing.mp4")
    video_page.write_page(data, folder / "long.html")
    return data, folder / "long.html"


def time(tab):
    return tab.evaluate("currentTime()")


def frame(tab):
    return int(tab.inner_text("#time").split("frame ")[1].replace(",", ""))


def column(tab, number, table="segment-table"):
    """The texts of a column of a table, of rows that are not empty."""
    return tab.locator(f"#{table} tbody tr:not(.filler) > :nth-child({number})").all_inner_texts()


def listed(tab):
    """The segments in the table, in its order, as indices of the shown ones by time."""
    return tab.evaluate("listed.map((segment) => shownSegments.indexOf(segment))")


def chosen(tab):
    return tab.evaluate("shownSegments.indexOf(selected)")


def wait_until(tab, condition):
    """Waits for an expression of the page's script; Playwright's own way would need a page that allows eval."""
    for _ in range(400):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(25)
    raise AssertionError(f"never true: {condition}")


def by_time(data, threshold=0.25):
    kept = [segment for segment in distinct(data.segments) if segment.score >= threshold]
    return sorted(kept, key=lambda each: (each.start, each.class_id, each.end))


def set_threshold(tab, value):
    tab.locator("#threshold").fill(str(value))


def test_page_shows_the_video_and_its_segments(tab, drawn):
    data, _ = drawn
    assert tab.title() == tab.inner_text("h1") == "drawn.mp4"
    assert tab.evaluate("[video.videoWidth, video.videoHeight]") == [64, 76]
    assert tab.evaluate("video.duration") == pytest.approx(data.duration, abs=0.1)
    assert column(tab, 4) == [MA52.names[each.class_id] for each in by_time(data)]
    assert column(tab, 5) == [MA52.group_names[MA52.groups[each.class_id]] for each in by_time(data)]
    assert column(tab, 6) == [f"{each.score:.2f}" for each in by_time(data)]
    assert {MA52.names[class_id] for class_id in ACTIONS} <= set(column(tab, 4))
    found = {MA52.groups[each.class_id] for each in by_time(data)}
    assert tab.locator("#labels [aria-expanded=true]").count() == len(found)  # the others are folded


def test_page_gets_the_probabilities(tab, drawn):
    data, _ = drawn
    read = np.array(tab.evaluate("page.names.map((_, id) => Array.from(probabilitiesOf(id)))")).T
    assert np.abs(read / 255 - data.probabilities).max() <= 0.51 / 255
    for moment in (0, 7, len(data.times) - 1):
        assert tab.evaluate(f"momentAt({data.times[moment]})") == moment


def test_click_on_a_segment_seeks(tab, drawn):
    segment = by_time(drawn[0])[2]
    place = tab.evaluate(
        f"""(() => {{
            const row = rows.findIndex((each) => each.classId === {segment.class_id});
            scroller.scrollTop = row * view.row - 60;
            const box = canvas.getBoundingClientRect();
            const y = view.ruler + (row + 0.7) * view.row - scroller.scrollTop;
            return [box.x + xAt({(segment.start + segment.end) / 2}), box.y + y];
        }})()"""
    )
    tab.mouse.click(*place)
    assert time(tab) == pytest.approx(segment.start, abs=1e-3)
    assert tab.locator("#segment-table [aria-current] td").first.inner_text() == f"0:{segment.start:05.2f}"
    assert MA52.names[segment.class_id] in tab.inner_text("#now")
    assert tab.inner_text("#spoken").startswith(f"{MA52.names[segment.class_id]}, 0:{segment.start:05.2f} to ")


def test_click_on_the_timeline_seeks_and_a_drag_moves(tab, drawn):
    box = tab.locator("#rows").bounding_box()
    tab.mouse.click(box["x"] + box["width"] / 4, box["y"] + 10)
    assert time(tab) == pytest.approx(drawn[0].duration / 4, abs=0.02)
    cursor = tab.locator("#cursor").bounding_box()
    assert cursor["x"] + cursor["width"] / 2 == pytest.approx(box["x"] + box["width"] / 4, abs=2)
    tab.evaluate("setView(0, page.duration / 2)")
    tab.mouse.move(box["x"] + 400, box["y"] + 10)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 100, box["y"] + 10, steps=3)
    tab.mouse.up()
    assert tab.evaluate("view.start") == pytest.approx(drawn[0].duration / 2 * 300 / box["width"], rel=0.01)
    assert time(tab) == pytest.approx(drawn[0].duration / 4, abs=0.02)


def test_playing_moves_the_cursor(tab):
    tab.keyboard.press("Space")
    wait_until(tab, "currentTime() > 0.3")
    assert tab.inner_text("#play") == "Pause"
    assert tab.evaluate("new DOMMatrix(byId('cursor').style.transform).m41") > 0
    tab.keyboard.press("Space")
    wait_until(tab, "!player.playing && video.paused")
    assert tab.inner_text("#play") == "Play"


def test_playing_turns_the_page_of_the_timeline(tab):
    tab.evaluate("setView(0, 2); seek(1.8); play()")
    wait_until(tab, "view.start > 1.5")


def test_keys_step_frames_and_seconds(tab, drawn):
    for key, expected in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", 0)):
        tab.keyboard.press(key)
        assert frame(tab) == expected, key
    for expected in range(1, 30):
        tab.keyboard.press("ArrowRight")
        assert frame(tab) == expected
    before = time(tab)
    tab.keyboard.press("Shift+ArrowRight")
    assert time(tab) == pytest.approx(before + 1, abs=1e-3)
    tab.keyboard.press("Shift+ArrowLeft")
    assert time(tab) == pytest.approx(before, abs=1e-3)
    tab.keyboard.press("End")
    tab.keyboard.press("ArrowRight")
    assert frame(tab) == round(drawn[0].duration * FPS) - 1  # the last one
    tab.keyboard.press("Home")
    assert frame(tab) == 0


def test_keys_go_to_segments(tab, drawn):
    segments = by_time(drawn[0])
    for key, i in (("n", 1), ("ArrowDown", 2), ("n", 3), ("p", 2), ("ArrowUp", 1), ("p", 0), ("p", 0)):
        tab.keyboard.press(key)
        assert chosen(tab) == i, key
        assert time(tab) == pytest.approx(segments[i].start, abs=1e-3)
    tab.select_option("#class", str(ACTIONS[0]))  # only these are listed
    tab.locator("body").click(position={"x": 700, "y": 5})
    tab.keyboard.press("n")
    again = [i for i, each in enumerate(segments) if each.class_id == ACTIONS[0]]
    assert chosen(tab) == again[1]


def test_keys_in_the_table_follow_its_order(tab):
    tab.click("#segment-table th:nth-child(6) button")
    order = listed(tab)
    tab.locator("#segment-table tbody button").first.click()
    for expected in order[1:4]:
        tab.keyboard.press("ArrowDown")
        assert chosen(tab) == expected
    assert tab.evaluate("document.activeElement.closest('tr').ariaCurrent") == "true"


def test_keys_leave_fields_alone(tab):
    tab.locator("#text").press_sequentially("n p0+")
    assert tab.input_value("#text") == "n p0+"
    assert time(tab) == 0
    tab.locator("#threshold").press("ArrowRight")
    assert tab.inner_text("#threshold-value") == "0.26"
    assert frame(tab) == 0
    tab.locator("#tab-segments").press("ArrowRight")
    assert tab.locator("#counts").is_visible()
    assert frame(tab) == 0


def test_keys_are_listed(tab):
    tab.keyboard.press("?")
    assert tab.locator("#keys").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.locator("#keys").is_visible()


@pytest.mark.parametrize("threshold", [0, 0.4, 0.6, 1])
def test_threshold_changes_table_counts_and_timeline(threshold, tab, drawn):
    set_threshold(tab, threshold)
    expected, total = by_time(drawn[0], threshold), len(distinct(drawn[0].segments))
    assert tab.inner_text("#shown-count") == f"{len(expected)} of {total} segments"
    assert tab.get_attribute("#segment-table", "aria-rowcount") == str(len(expected) + 1)
    assert column(tab, 4)[:10] == [MA52.names[each.class_id] for each in expected][:10]
    shown = tab.evaluate("rows.filter((row) => row.classId < 0).map((row) => row.segments.length)")
    assert shown == [sum(MA52.groups[each.class_id] == group for each in expected) for group in range(7)]
    tab.click("#tab-counts")
    names = [MA52.names[each.class_id] for each in expected]
    assert dict(zip(column(tab, 1, "count-table"), column(tab, 3, "count-table"), strict=True)) == {
        name: str(names.count(name)) for name in names
    }
    absent = tab.inner_text("#not-found").removeprefix("Not found at this threshold: ").removesuffix(".").split(", ")
    assert set(absent) == set(MA52.names) - set(names)


def test_counts_are_rates_and_lengths(tab, drawn):
    data = drawn[0]
    tab.click("#tab-counts")
    lengths = [each.end - each.start for each in by_time(data) if each.class_id == ACTIONS[0]]
    row = tab.locator("#count-table tr", has_text=MA52.names[ACTIONS[0]]).locator("td").all_inner_texts()
    count, total = len(lengths), sum(lengths)
    rest = [f"{60 * count / data.duration:.2f}", f"{total:.1f} s", f"{total / count:.2f} s"]
    assert row == ["head", str(count), *rest]
    assert column(tab, 3, "count-table") == sorted(column(tab, 3, "count-table"), key=int, reverse=True)
    tab.click(f"#count-table button:text-is('{MA52.names[ACTIONS[0]]}')")
    assert set(column(tab, 4)) == {MA52.names[ACTIONS[0]]}
    assert tab.locator("#segments").is_visible()


KEYS = [
    lambda each: each.start,
    lambda each: each.end,
    lambda each: each.end - each.start,
    lambda each: MA52.names[each.class_id],
    lambda each: MA52.group_names[MA52.groups[each.class_id]],
    lambda each: -each.score,  # the highest first
]


@pytest.mark.parametrize("number", range(1, 7))
def test_table_sorts_by_each_column(number, tab, drawn):
    if number == 1:
        tab.click("#segment-table th:nth-child(2) button")  # it is the order at first
    button = tab.locator(f"#segment-table th:nth-child({number}) button")
    button.click()
    segments, key = by_time(drawn[0]), KEYS[number - 1]
    expected = sorted(range(len(segments)), key=lambda i: (key(segments[i]), i))
    assert listed(tab) == expected
    header = tab.locator(f"#segment-table th:nth-child({number})")
    first = header.get_attribute("aria-sort")
    assert first == ("descending" if number == 6 else "ascending")
    button.press("Enter")
    assert [key(segments[i]) for i in listed(tab)] == [key(segments[i]) for i in reversed(expected)]
    assert header.get_attribute("aria-sort") == ("ascending" if number == 6 else "descending")
    assert tab.locator("#segment-table [aria-sort]").count() == 1


def test_table_filters(tab, drawn):
    segments = by_time(drawn[0])
    tab.fill("#text", "LEGS")
    assert set(column(tab, 4)) == {MA52.names[i] for i in {s.class_id for s in segments} if "legs" in MA52.names[i]}
    assert tab.inner_text("#listed") == f"{len(listed(tab))} listed"
    tab.fill("#text", "")
    tab.select_option("#group", label="head")
    assert set(column(tab, 5)) == {"head"}
    tab.select_option("#class", label=MA52.names[28])
    assert listed(tab) == []
    assert tab.inner_text("#no-segments") == "No segment fits the filters."
    tab.select_option("#group", "")
    assert set(column(tab, 4)) == {MA52.names[28]}
    set_threshold(tab, 1)
    assert tab.inner_text("#no-segments") == "No segment has so high a score: lower the threshold."


def test_groups_fold(tab):
    open_groups = tab.locator("#labels [aria-expanded=true]").count()
    assert 0 < open_groups < 7
    tab.click("#unfold-all")
    assert tab.locator("#labels li").count() == 52 + 7
    head = tab.locator("#labels button", has_text="head").first
    head.focus()
    tab.keyboard.press("Space")  # presses the button; it does not play
    assert tab.locator("#labels li").count() == 52 + 7 - 6
    assert head.get_attribute("aria-expanded") == "false"
    assert tab.evaluate("document.activeElement.dataset.group") == "1"
    assert not tab.evaluate("player.playing")
    tab.click("#fold-all")
    assert tab.locator("#labels li").count() == 7


def test_zoom_keeps_its_place(tab, drawn):
    tab.evaluate("seek(5)")
    before = tab.evaluate("xAt(5)")
    tab.keyboard.press("+")
    assert tab.evaluate("view.span") == pytest.approx(drawn[0].duration / 1.5)
    assert tab.evaluate("xAt(5)") == pytest.approx(before, abs=0.01)
    box = tab.locator("#rows").bounding_box()
    tab.mouse.move(box["x"] + 300, box["y"] + 60)
    held = tab.evaluate("timeAt(300)")
    tab.keyboard.down("Control")
    tab.mouse.wheel(0, -200)
    tab.keyboard.up("Control")
    wait_until(tab, f"view.span < {drawn[0].duration / 1.6}")
    assert tab.evaluate("timeAt(300)") == pytest.approx(held, abs=0.02)
    tab.keyboard.press("0")
    assert tab.evaluate("[view.start, view.span]") == [0, drawn[0].duration]


def test_overview_moves_the_timeline(tab, drawn):
    tab.evaluate("setView(0, 3)")
    box = tab.locator("#overview").bounding_box()
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + 9)
    assert tab.evaluate("view.start + view.span / 2") == pytest.approx(drawn[0].duration / 2, abs=0.05)


def test_tables_are_saved(tab, drawn):
    tab.select_option("#group", label="head")
    with tab.expect_download() as found:
        tab.click("#save")
    assert found.value.suggested_filename == "drawn.mp4_segments.csv"
    with open(found.value.path(), encoding="utf-8-sig", newline="") as file:  # noqa: PTH123
        rows = list(csv.DictReader(file))
    expected = [each for each in by_time(drawn[0]) if MA52.groups[each.class_id] == 1]
    assert [row["Action"] for row in rows] == [MA52.names[each.class_id] for each in expected]
    assert [float(row["Start"]) for row in rows] == [round(each.start, 3) for each in expected]


def test_repeat_returns_to_the_start_of_the_segment(tab, drawn):
    segment = by_time(drawn[0])[1]
    tab.keyboard.press("n")
    tab.keyboard.press("r")
    tab.evaluate(f"seek({segment.end - 0.1}); play()")
    wait_until(tab, f"currentTime() < {segment.start + 0.5}")
    assert time(tab) >= segment.start - 1e-3


def test_unplayable_video_is_reported_and_the_rest_works(half_hour, show):
    data, path = half_hour
    tab = show(path, errors=[MISSING])
    tab.wait_for_selector("#unplayable:not([hidden])")
    assert tab.inner_text("#unplayable").startswith("This browser cannot play missing.mp4: it does not know the format")
    tab.keyboard.press("Space")
    wait_until(tab, "currentTime() > 0.2")
    tab.keyboard.press("Space")
    stopped = time(tab)
    assert tab.evaluate("new Promise((done) => setTimeout(() => done(currentTime()), 100))") == stopped
    tab.keyboard.press("ArrowRight")
    assert frame(tab) == int(stopped * 25 + 1e-3) + 1
    tab.keyboard.press("n")
    assert time(tab) == pytest.approx(next(s.start for s in by_time(data) if s.start > stopped + 0.04), abs=1e-3)
    tab.evaluate("setSpeed(2); seek(1799.8); play()")
    wait_until(tab, "!player.playing")
    assert time(tab) == 1800


def test_file_that_is_no_video_is_reported(tmp_path, drawn, show):
    (tmp_path / "notes.mp4").write_text("not a video")
    data = dataclasses.replace(drawn[0], video=tmp_path / "notes.mp4")
    video_page.write_page(data, tmp_path / "page.html")
    tab = show(tmp_path / "page.html")
    tab.wait_for_selector("#unplayable:not([hidden])")
    tab.keyboard.press("ArrowRight")
    assert frame(tab) == 1


def test_embedded_video_plays_and_seeks(tmp_path, drawn, show):
    video_page.write_page(drawn[0], tmp_path / "moved.html", embed_bytes=10**7)
    tab = show(tmp_path / "moved.html")
    wait_until(tab, "video.readyState >= 2")
    tab.evaluate("seek(3)")
    wait_until(tab, "!video.seeking")
    assert time(tab) == pytest.approx(3, abs=1e-3)


def test_names_stay_text(tmp_path, show):
    evil = "</script ><!--<script ></script><img src=x onerror=alert(1)><script>window.hacked = 1</script>"
    labels = LabelSet((evil, f"'{evil}", "ä 拍手"), (evil, "b"), (0, 1, 1))
    segments = (Segment(0.5, 1.5, 0, 0.9), Segment(1.0, 2.0, 2, 0.8))
    video = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    times, zeros = np.array([1.0]), np.zeros((1, 3))
    data = VideoPage(video, 2.0, 25.0, labels, times, zeros, segments, title=evil)
    video_page.write_page(data, tmp_path / "page.html", index="index.html")
    index.write_index([(data, tmp_path / "page.html")], tmp_path / "index.html")
    tab = show(tmp_path / "page.html", errors=[MISSING] * 2)
    tab.wait_for_selector("#unplayable:not([hidden])")
    tab.keyboard.press("n")
    assert (tab.title(), tab.inner_text("h1")) == (evil, evil)
    assert column(tab, 4) == [evil, "ä 拍手"]
    assert tab.locator("#labels .name").first.inner_text() == evil
    assert video.name in tab.inner_text("#unplayable")
    tab.click("nav a")
    assert tab.inner_text("tbody a") == evil
    tab.click("tbody a")
    tab.wait_for_selector("#unplayable:not([hidden])")
    assert tab.evaluate("[typeof window.hacked, document.images.length]") == ["undefined", 0]


def test_page_without_groups_or_segments(tmp_path, show):
    labels = LabelSet(("a", "b"), ("a", "b"), (0, 1))
    data = VideoPage(tmp_path / "x.mp4", 2.0, 25.0, labels, np.array([1.0]), np.zeros((1, 2)), ())
    video_page.write_page(data, tmp_path / "page.html")
    tab = show(tmp_path / "page.html", errors=[MISSING])
    assert tab.locator("#labels .name").all_inner_texts() == ["a", "b"]
    assert not tab.locator("#folding").is_visible()
    assert tab.inner_text("#no-segments") == "The model found no segments."
    tab.wait_for_selector("#unplayable:not([hidden])")


MEASURE = """async () => {
    const durations = [], draw = drawTimeline;
    drawTimeline = () => { const start = performance.now(); draw(); durations.push(performance.now() - start); };
    const frame = () => new Promise(requestAnimationFrame);
    for (let i = 0; i < 60; i++) { scroller.scrollTop += 20; requestDraw(); await frame(); }
    for (let i = 0; i < 30; i++) { zoom(1 / 1.2, 500); await frame(); }
    for (let i = 0; i < 60; i++) { setView(view.start + view.span / 20, view.span); await frame(); }
    for (let i = 0; i < 30; i++) { zoom(1.2, 500); await frame(); }
    await frame();
    drawTimeline = draw;
    durations.sort((a, b) => a - b);
    return [durations.length, durations[durations.length >> 1], durations[durations.length - 1]];
}"""


def test_long_video_scrolls_smoothly(half_hour, show, record_property):
    data, path = half_hour
    assert data.probabilities.shape == (7200, 52)
    tab = show(path, height=1400, errors=[MISSING])
    tab.wait_for_selector("#unplayable:not([hidden])")
    tab.click("#unfold-all")
    measured = [tab.evaluate(MEASURE) for _ in range(2)]
    record_property("draws, median and worst in ms", measured)
    assert min(count for count, _, _ in measured) >= 150
    # Of two runs the better: the machine may be busy in the other.
    assert min(median for _, median, _ in measured) < FRAME
    assert min(worst for _, _, worst in measured) < FRAME


def test_long_table_draws_the_visible_rows(half_hour, show):
    data, path = half_hour
    tab = show(path, errors=[MISSING])
    set_threshold(tab, 0)
    count = len(distinct(data.segments))
    assert tab.get_attribute("#segment-table", "aria-rowcount") == str(count + 1)
    assert tab.locator("#segment-table tbody tr").count() < 60
    tab.evaluate("byId('segment-scroller').scrollTop = 1e9")
    tab.wait_for_selector(f"#segment-table tr[aria-rowindex='{count + 1}']")
    last = by_time(data, 0)[-1]
    tab.locator(f"#segment-table tr[aria-rowindex='{count + 1}'] button").click()
    assert time(tab) == pytest.approx(last.start, abs=1e-3)


@pytest.mark.parametrize("width", [320, 400, 768, 1000])
def test_page_does_not_scroll_sideways(width, drawn, show):
    for path in (drawn[1], drawn[1].with_name("index.html")):
        tab = show(path, width=width, height=850)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab = show(drawn[1], width=width, height=850)
    wide = "[...document.querySelectorAll('body > *, .toolbar > *, .transport > *, .filters > *')]"
    right = tab.evaluate(f"Math.max(...{wide}.map((each) => each.getBoundingClientRect().right))")
    assert right <= width
    tab.click("#tab-counts")
    assert tab.evaluate("byId('count-table').scrollWidth <= byId('counts').clientWidth")


def test_controls_have_names_and_a_visible_focus(tab):
    unnamed = """[...document.querySelectorAll('button, select, input, canvas[tabindex]')].filter((each) =>
        !each.textContent.trim() && !each.getAttribute('aria-label') && !each.labels?.length)"""
    assert tab.evaluate(f"{unnamed}.length") == 0
    seen = []
    for _ in range(40):
        tab.keyboard.press("Tab")
        style = tab.evaluate(
            "(({outlineStyle, outlineWidth}) => [outlineStyle, outlineWidth])(getComputedStyle(document.activeElement))"
        )
        seen.append(tab.evaluate("document.activeElement.id || document.activeElement.closest('table, ul')?.id || ''"))
        assert style == ["solid", "2px"] or seen[-1] == "", seen
    assert {"play", "frame-on", "next", "speed", "threshold", "rows", "labels", "text", "segment-table"} <= set(seen)
