"""The local page in headless Chromium: what is seen, keys, names for screen readers, corrections.

Run by `bash launch/browser_tests.sh`, which installs what is missing.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from oclr_jax.results import read_record
from oclr_jax.video.png import read_ids
from tests.clips import moving_clip
from tests.corrections.results import HEIGHT, WIDTH, write_result
from tests.video.videos import encode
from tests.web.pages import wait_for

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install '.[browser]'")
expect = playwright.expect

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 12
CONTROLS = {"button", "slider", "textbox", "combobox", "checkbox", "link", "spinbutton", "img"}
CONTROLS |= {"ColorWell", "progressbar", "list", "dialog"}


class Server:
    """`oclr serve` in a process of its own."""

    def __init__(self, folder: Path, port: int):
        command = [sys.executable, "-m", "oclr_jax.cli", "serve", str(folder), "--no-browser"]
        self.process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        self.address = self.process.stdout.readline().split()[1]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory, port):
    server = Server(tmp_path_factory.mktemp("folder"), port)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium, or its path in CHROMIUM")
    with playwright.sync_playwright() as driver:
        # Containers often forbid the sandbox; the pages are our own.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """An empty page that fails the test on any error in it and on any request to elsewhere."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(20000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((server.address, "blob:"))
            else wrong.append(f"asked {request.url}")
        ),
    )
    yield page
    context.close()
    assert not wrong


@pytest.fixture
def result(tmp_path):
    """Two squares that cross and one behind, in an H.264 video with B-frames."""
    result = write_result(tmp_path, FRAMES, video=False)
    frames = np.stack([np.full((HEIGHT, WIDTH, 3), 30 + 15 * n, np.uint8) for n in range(FRAMES)])
    options = {"g": "5", "bf": "2"}
    encode(tmp_path / "clip.mp4", frames, "libx264", options=options).rename(tmp_path / "clip")
    return result


def open_result(page, server, result) -> None:
    page.goto(server.address)
    page.get_by_label("Or name a video").fill(str(result))
    page.get_by_role("button", name="Start").click()
    at_frame(page, 0)


def at_frame(page, number: int) -> None:
    page.locator(f'.stage[data-frame="{number}"]').wait_for()


def pixel(page, x: int, y: int) -> list[int]:
    return page.evaluate(
        "([x, y]) => [...document.querySelector('.flat').getContext('2d')"
        ".getImageData(x, y, 1, 1).data].slice(0, 3)",
        [x, y],
    )


def names_of_controls(page) -> list[tuple[str, str]]:
    """The (role, name) of all that a screen reader can stop at."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    shown = [node for node in nodes if not node["ignored"]]
    pairs = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in shown]
    return [(role, name) for role, name in pairs if role in CONTROLS]


def test_a_video_is_dropped_segmented_and_opened(page, server, tmp_path):
    """The only test in which the model runs."""
    video = encode(tmp_path / "two squares.mp4", moving_clip(8))
    page.goto(server.address)
    page.get_by_label("Quality").select_option("fast")
    page.locator("#file").set_input_files(video)
    row = page.locator(".job", has_text="two_squares")
    expect(row.get_by_role("button", name="Cancel")).to_be_visible()
    expect(row).to_have_attribute("data-state", "running")
    link = row.get_by_role("link", name="Open")
    link.wait_for(timeout=240_000)
    link.click()
    at_frame(page, 0)
    expect(page.get_by_role("heading", level=1)).to_contain_text("two_squares")


def test_every_control_has_a_name(page, server, result):
    page.goto(server.address)
    page.get_by_role("button", name="Start").wait_for()
    home = names_of_controls(page)
    open_result(page, server, result)
    page.get_by_role("button", name="Object 1 frames").click()
    player = names_of_controls(page)
    assert not [role for role, name in home + player if not name.strip()]
    roles = [role for role, _ in player]
    assert roles.count("slider") >= 3 and roles.count("ColorWell") == 3
    assert ("slider", "Time line") in player
    assert ("button", "Split object 1 at frame 0") in player
    picture = page.get_by_role("img", name="Frame 0: objects 1, 2")
    expect(picture).to_be_visible()
    expect(page.get_by_role("slider", name="Time line")).to_have_attribute(
        "aria-valuetext", f"Frame 0 of {FRAMES}, 0:00.00"
    )


def test_scrubbing_shows_the_frame_that_it_names(page, server, result):
    open_result(page, server, result)
    for id in (1, 2, 3):
        page.keyboard.press(str(id))  # hide
    line = page.get_by_role("slider", name="Time line")
    box = line.bounding_box()
    for number in (7, 3, 11, 4, 0, 9):
        x = box["x"] + (number + 0.5) / FRAMES * box["width"]
        page.mouse.click(x, box["y"] + 10)
        at_frame(page, number)
        assert abs(pixel(page, WIDTH // 2, 2)[0] - (30 + 15 * number)) <= 5, number
        expect(page.get_by_label("Frame number")).to_have_value(str(number))


def test_keys(page, server, result):
    open_result(page, server, result)
    for key, number in [
        ("ArrowRight", 1),
        ("Shift+ArrowRight", 11),
        ("ArrowRight", 11),
        ("ArrowLeft", 10),
        ("Home", 0),
        ("End", 11),
        ("Shift+ArrowLeft", 1),
    ]:
        page.keyboard.press(key)
        at_frame(page, number)
    page.keyboard.press("+")  # the time line is narrower than the video and follows the frame
    box = page.get_by_role("slider", name="Time line").bounding_box()
    page.mouse.click(box["x"] + 2, box["y"] + 10)
    at_frame(page, 0)
    page.keyboard.press("End")
    at_frame(page, FRAMES - 1)
    page.mouse.click(box["x"] + 2, box["y"] + 10)
    at_frame(page, 2)
    page.keyboard.press("-")
    page.get_by_label("Speed").select_option("2")
    page.get_by_role("slider", name="Time line").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    at_frame(page, FRAMES - 1)
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()


def test_the_page_can_be_used_by_keyboard_alone(page, server, result):
    open_result(page, server, result)
    page.keyboard.press("Shift+ArrowRight")
    at_frame(page, 10)
    wanted = ["One frame back", "Time line", "Colour of object 1", "Object 1", "Drop object 1"]
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"
        )
        found = [each for each in wanted if name.startswith(each)]
        reached |= set(found)
        assert page.evaluate("document.activeElement.matches(':focus-visible')")
        if "Object 1" in found:
            page.keyboard.press("Enter")
            expect(page.get_by_role("button", name="Drop object 1")).to_be_visible()
        if reached == set(wanted):
            break
    assert reached == set(wanted)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("drop 1")


def test_masks_are_shown_hidden_recoloured_and_whole(page, server, result):
    open_result(page, server, result)
    page.get_by_label("Frame number").fill("4")
    page.keyboard.press("Enter")
    at_frame(page, 4)
    front, behind = (26, 10), (34, 20)  # on object 1; where object 2 is behind it
    grey = 30 + 15 * 4
    wait_for(lambda: pixel(page, *front)[0] > grey + 20)
    page.get_by_label("Outlines").uncheck()
    page.get_by_role("button", name="Show object 1").click()
    wait_for(lambda: abs(pixel(page, *front)[0] - grey) <= 5)
    page.get_by_role("button", name="Show object 1").click()
    page.get_by_label("Colour of object 1").fill("#0000ff")
    wait_for(lambda: pixel(page, *front)[2] > grey + 20)
    page.get_by_role("button", name="Show object 1").click()
    assert all(abs(value - grey) <= 5 for value in pixel(page, *behind))
    page.get_by_role("button", name="All whole objects").click()
    wait_for(lambda: any(pixel(page, behind[0] + x, behind[1])[1] > grey + 20 for x in range(6)))
    page.get_by_role("button", name="Masks", exact=True).click()
    wait_for(lambda: pixel(page, 2, 2) == [16, 18, 22])
    page.get_by_role("button", name="Flow").click()
    wait_for(lambda: min(pixel(page, 2, 2)) > 200)  # nothing moves there: white


def test_layers_are_pulled_apart_in_depth(page, server, result):
    open_result(page, server, result)
    page.keyboard.press("Shift+ArrowRight")
    at_frame(page, 10)
    page.get_by_label("Pull layers apart").fill("0.8")
    layers = page.locator(".stack canvas:visible")
    expect(layers).to_have_count(4)
    depths = layers.evaluate_all("all => all.map((each) => each.style.transform)")
    assert len(set(depths)) == 4
    page.get_by_role("button", name="Show object 2").click()
    expect(layers).to_have_count(3)
    page.keyboard.press("d")
    expect(layers).to_have_count(0)


def test_corrections_are_made_undone_and_exported(page, server, result):
    open_result(page, server, result)
    done = page.get_by_role("list", name="Corrections").get_by_role("listitem")
    objects = page.locator(".object")
    page.get_by_role("button", name="Object 2 frames").click()
    expect(page.get_by_role("button", name="Split object 2")).to_be_disabled()
    page.get_by_label("Frame number").fill("6")
    page.get_by_label("Frame number").press("Enter")
    page.get_by_role("button", name="Split object 2 at frame 6").click()
    expect(objects).to_have_count(4)
    page.get_by_role("button", name="Send object 2 back").click()
    expect(objects.nth(1)).to_contain_text("Object 4")
    page.get_by_role("button", name="Foreground: object 4").click()
    expect(page.get_by_role("button", name="Foreground: object 4")).to_have_attribute(
        "aria-pressed", "true"
    )
    page.get_by_label("Merge object 2 into").select_option("Object 1")
    expect(objects).to_have_count(3)
    page.get_by_role("button", name="Object 3 frames").click()
    page.get_by_role("button", name="Drop object 3").click()
    expect(done).to_have_count(5)
    page.keyboard.press("Control+z")
    expect(page.locator(".undone")).to_have_text("drop 3")
    page.keyboard.press("Control+Shift+Z")
    expect(page.locator(".undone")).to_have_count(0)
    page.reload()
    expect(done).to_have_text(
        [
            "split 2 at frame 6: 4 from there on",
            "depth order 1, 4, 2, 3, front to back",
            "foreground 4",
            "merge 2 into 1",
            "drop 3",
        ]
    )
    page.get_by_role("button", name="Export", exact=True).click()
    page.get_by_label("COCO-VIS JSON").check()
    page.get_by_role("button", name="Start export").click()
    expect(page.locator(".note")).to_contain_text("Corrections made: 5", timeout=60_000)
    record = read_record(result / "corrected")
    assert [entry["id"] for entry in record["objects"]] == [1, 4]
    assert set(np.unique(read_ids(result / "corrected/masks/3.png"))) == {0, 1}
    assert read_ids(result / "corrected/foreground/8.png").any()
    assert (result / "corrected/exports/coco.json").is_file()


def test_errors_are_told(page, server, result):
    page.goto(server.address)
    page.get_by_label("Or name a video").fill("/no/such/clip.mp4")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("does not exist")
    page.goto(f"{server.address}#/999")
    expect(page.get_by_role("alert").filter(has_text="no results of job 999")).to_be_visible()
    (result.parent / "clip").unlink()
    open_result(page, server, result)
    expect(page.get_by_role("alert").filter(has_text="Only the masks")).to_be_visible()


@pytest.mark.parametrize("width", [380, 900, 1920])
def test_pages_fit_their_window(page, server, result, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(server.address)
    page.get_by_role("button", name="Start").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    open_result(page, server, result)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_page_finds_its_server_again(page, browser, tmp_path, port):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        other = free.getsockname()[1]
    first = Server(tmp_path / "folder", other)
    context = browser.new_context()
    try:
        lost = context.new_page()
        lost.goto(first.address)
        lost.get_by_role("button", name="Start").wait_for()
        first.stop()
        alert = lost.get_by_role("alert").filter(has_text="does not answer")
        expect(alert).to_be_visible(timeout=20_000)
        first = Server(tmp_path / "folder", other)
        expect(alert).to_be_hidden(timeout=20_000)
    finally:
        context.close()
        first.stop()
