"""The routes of the local page: what they answer, and what they refuse."""

import asyncio
import gzip
import io

import numpy as np
import pytest
from PIL import Image

from oclr_jax.video.png import read_ids
from oclr_jax.video.reader import open_video
from oclr_jax.web.app import make_app, safe_name
from oclr_jax.web.jobs import WAITING
from tests.corrections.results import HEIGHT, WIDTH, crossing, visible, write_result
from tests.web.pages import ADDRESS, TOKEN, client, make_page, run_instead, show_result, wait_for

FRAMES = 6
IDLE = "pass"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Results that no test changes."""
    return write_result(tmp_path_factory.mktemp("found"), FRAMES)


@pytest.fixture
def page(tmp_path):
    return make_page(tmp_path / "folder")


def planes(response) -> np.ndarray:
    return np.frombuffer(response.content, np.uint8).reshape(-1, HEIGHT, WIDTH)


def test_only_who_knows_the_token_gets_an_answer(page, found):
    number = show_result(page, found)
    with client(page) as http:
        for path in ("", "static/main.js", "api/state", f"api/results/{number}"):
            assert http.get(path).status_code == 200
            for other in ("", "wrong/", f"{TOKEN}x/", f"{TOKEN[:-1]}/", f"%2e/{TOKEN}/"):
                assert http.get(f"{ADDRESS}/{other}{path}").status_code == 403, (other, path)
        assert http.put(f"{ADDRESS}/wrong/api/uploads/a.mp4", content=b"x").status_code == 403
        assert http.post(f"{ADDRESS}/wrong/api/jobs", json={"path": "/"}).status_code == 403
    assert not list((page.folder / "uploads").iterdir())


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8765"},
        {"Host": ""},
        {"Host": "127.0.0.1.evil.example:8765"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
    ],
)
def test_a_page_of_another_site_gets_no_answer(page, headers):
    """Also where the name of the site leads to this machine."""
    with client(page) as http:
        assert http.get("api/state", headers=headers).status_code == 403
        assert http.get("api/state", headers={"Origin": ADDRESS}).status_code == 200


def test_nothing_is_loaded_from_elsewhere(page):
    with client(page) as http:
        headers = http.get("").headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "static/../app.py",
        "static/%2e%2e/app.py",
        "static/..%2fapp.py",
        "static//etc/passwd",
        "static/..%5capp.py",
        "api/results/../../state",
        "api/results/1/frames/..%2f..%2fobjects.json",
        "api/results/1/masks/0%00",
        "api/results/x",
    ],
)
def test_paths_lead_nowhere_else(page, found, path):
    show_result(page, found)
    with client(page) as http:
        assert http.get(path).status_code in (403, 404, 422)


def test_frames_are_those_of_the_video(page, found):
    number = show_result(page, found)
    expected = list(open_video(found.parent / "clip"))
    with client(page) as http:
        for frame in (4, 0, 5):
            response = http.get(f"api/results/{number}/frames/{frame}")
            assert response.headers["content-type"] == "image/jpeg"
            image = np.asarray(Image.open(io.BytesIO(response.content)), np.int32)
            errors = [np.abs(image - other).mean() for other in expected]
            assert image.shape == (HEIGHT, WIDTH, 3) and np.argmin(errors) == frame
        flow = http.get(f"api/results/{number}/flow/5").content
        assert Image.open(io.BytesIO(flow)).size == (WIDTH, HEIGHT)


def test_masks_are_planes_of_ids_and_bits(page, found):
    number = show_result(page, found)
    with client(page) as http:
        for frame in range(FRAMES):
            response = http.get(f"api/results/{number}/masks/{frame}")
            ids = [int(id) for id in response.headers["x-objects"].split(",")]
            seen, bits = planes(response)
            assert np.array_equal(seen, read_ids(found / "masks" / f"{frame}.png"))
            assert ids == ([1, 2] if frame < 2 else [1, 2, 3])
            for bit, id in enumerate(ids):
                assert np.array_equal(bits >> bit & 1, crossing(FRAMES)[id][frame])


def test_large_frames_are_shown_smaller(page, found, monkeypatch):
    monkeypatch.setattr("oclr_jax.web.player._LONGEST_SIDE", WIDTH // 2)
    number = show_result(page, found)
    with client(page) as http:
        shown = http.get(f"api/results/{number}").json()["shown"]
        assert shown == {"height": HEIGHT // 2, "width": WIDTH // 2}
        content = http.get(f"api/results/{number}/masks/0").content
        picture = http.get(f"api/results/{number}/frames/0").content
    assert len(content) == 2 * HEIGHT * WIDTH // 4
    assert Image.open(io.BytesIO(picture)).size == (WIDTH // 2, HEIGHT // 2)


def test_scores_and_motion_are_tracks(page, found):
    number = show_result(page, found)
    with client(page) as http:
        tracks = http.get(f"api/results/{number}/tracks").json()
        assert tracks["3"]["score"] == [None, None, 0.7, 0.7, 0.7, 0.7]
        assert tracks["1"]["area"] == [256] * FRAMES

        def motion():
            return http.get(f"api/results/{number}/motion").json()

        wait_for(lambda: motion()["done"] == FRAMES)
        speeds = motion()
    assert speeds["background"][-1] is None and speeds["objects"]["3"][0] is None
    assert all(speed >= 0 for speed in speeds["objects"]["1"][:-1])


def test_corrections_are_made_undone_and_exported(page, tmp_path):
    result = write_result(tmp_path / "mine", FRAMES)
    number = show_result(page, result)
    base = f"api/results/{number}"
    with client(page) as http:
        before = planes(http.get(f"{base}/masks/3"))
        split = http.post(f"{base}/corrections", json={"kind": "split", "id": 1, "frame": 3}).json()
        assert [entry["id"] for entry in split["objects"]] == [1, 4, 2, 3]
        assert split["corrections"] == ["split 1 at frame 3: 4 from there on"]
        tracks = http.get(f"{base}/tracks").json()
        assert tracks["4"]["score"] == [None] * 3 + [0.9] * 3
        assert (planes(http.get(f"{base}/masks/3"))[0] == 4).sum() == (before[0] == 1).sum()
        http.post(f"{base}/corrections", json={"kind": "drop", "id": 4})
        assert http.post(f"{base}/corrections/undo").json()["undone"] == ["drop 4"]
        assert http.post(f"{base}/corrections/redo").json()["undone"] == []
        job = http.post(f"{base}/export", json=["npz"]).json()
        assert (job["kind"], job["options"]) == ("apply", ["--export", "npz"])
        wait_for(lambda: page.queue.get(job["number"]).state not in ("waiting", "running"), 60)
        assert page.queue.get(job["number"]).message.startswith("Corrections made: 2; objects now")
        full = {id: masks[3] for id, masks in crossing(FRAMES).items() if id != 1}
        assert np.array_equal(read_ids(result / "corrected" / "masks" / "3.png"), visible(full))


@pytest.mark.parametrize(
    "path, body, says",
    [
        ("api/results/1/corrections", {"kind": "merge", "id": 1, "into": 9}, "no object 9"),
        ("api/results/1/corrections", None, "has a kind"),
        ("api/results/1/corrections/undo", None, "no correction to undo"),
        ("api/results/1/corrections/redo", None, "no correction to make again"),
        ("api/results/1/corrections/forget", None, "no action forget"),
        ("api/results/7/corrections", {"kind": "drop", "id": 1}, "no results of job 7"),
        ("api/results/7/export", None, "no results of job 7"),
        ("api/results/1/export", ["avi"], "no format 'avi'"),
        ("api/results/1/export", {"to": "gif"}, "Give a list of formats"),
        ("api/jobs", {"path": "/no/such/video.mp4"}, "does not exist"),
        ("api/jobs", {"path": " "}, "Give the path"),
        ("api/jobs", {"path": 3}, "Give the path"),
        ("api/jobs", ["path"], "Give the path"),
        ("api/jobs", {"path": "CLIP", "quality": "perfect"}, "no quality 'perfect'"),
        ("api/jobs/1/cancel", None, "nothing to cancel"),
        ("api/jobs/1/retry", None, "Only a job that failed"),
        ("api/jobs/1/explode", None, "no action explode"),
        ("api/jobs/9/remove", None, "Only a job that has ended"),
    ],
)
def test_bad_requests_get_one_sentence(page, found, path, body, says):
    show_result(page, found)
    if isinstance(body, dict) and body.get("path") == "CLIP":
        body["path"] = str(found.parent / "clip")
    with client(page) as http:
        response = http.post(path, json=body) if body is not None else http.post(path)
        assert response.status_code == 422
        assert says in response.json()["error"]
        for content in (b"{", b"\xff", b" " * (2 << 20)):
            assert http.post(path, content=content).status_code == 422
        for frame in ("frames/6", "flow/6", "masks/99"):
            assert "There is no frame" in http.get(f"api/results/1/{frame}").json()["error"]
    assert not (found / "corrections.json").exists()


def test_a_result_without_its_video_shows_its_masks(page, tmp_path):
    number = show_result(page, write_result(tmp_path / "mine", 3, video=False))
    with client(page) as http:
        assert "no longer there" in http.get(f"api/results/{number}").json()["problem"]
        assert http.get(f"api/results/{number}/masks/0").status_code == 200
        assert http.get(f"api/results/{number}/frames/0").status_code == 422
        assert http.get(f"api/results/{number}/motion").json()["done"] == 0
        job = http.post(f"api/results/{number}/export").json()
        assert job["options"] == ["--no-overlay"]


def test_an_upload_is_stored_and_queued(page, monkeypatch):
    run_instead(monkeypatch, IDLE)
    with client(page) as http:
        content = b"film" * 100_000
        job = http.put("api/uploads/..%2F..%2Fmy film.mp4?quality=fast", content=content).json()
    (stored,) = (page.folder / "uploads").iterdir()
    assert stored.name == "0001-my_film.mp4" and stored.read_bytes() == content
    fast = ["--overwrite", "--refine", "none", "--passes", "1"]
    assert job["input"] == str(stored) and job["options"] == fast
    assert job["result"] == str(page.folder / "results" / "0001-my_film")
    assert (job["number"], job["name"]) == (1, "my_film.mp4")


def test_an_upload_that_cannot_be_taken_leaves_nothing(page, monkeypatch):
    run_instead(monkeypatch, IDLE)
    with client(page) as http:
        assert "is empty" in http.put("api/uploads/a.mp4", content=b"").json()["error"]
        wrong = http.put("api/uploads/a.mp4?quality=perfect", content=b"x").json()
        assert "no quality" in wrong["error"]
        monkeypatch.setattr("oclr_jax.web.app._FREE_BYTES", 1 << 62)
        full = http.put("api/uploads/a.mp4", content=b"x").json()
        assert "too little space" in full["error"]
    assert not list((page.folder / "uploads").iterdir())
    assert page.queue.jobs() == []


def test_an_upload_that_breaks_off_leaves_nothing(page):
    messages = iter(
        [{"type": "http.request", "body": b"x" * 1000, "more_body": True}]
        + [{"type": "http.disconnect"}] * 9
    )
    seen, sent = [], []

    async def receive():
        seen.extend((page.folder / "uploads").iterdir())
        return next(messages)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "PUT",
        "path": f"/{TOKEN}/api/uploads/a.mp4",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8765")],
    }
    asyncio.run(make_app(page, TOKEN)(scope, receive, send))
    assert [path.name for path in seen[:1]] == ["0001-a.mp4.part"]
    assert sent[0]["status"] == 400
    assert not list((page.folder / "uploads").iterdir()) and not page.queue.jobs()


def test_a_folder_of_results_is_opened_at_once(page, found):
    with client(page) as http:
        job = http.post("api/jobs", json={"path": f" {found} "}).json()
        assert job["state"] == "done"
        assert http.get(f"api/results/{job['number']}").json()["video"]["name"] == "clip"


def test_a_page_of_one_result_takes_no_videos(tmp_path, found):
    page = make_page(tmp_path / "folder", only_view=True)
    with client(page) as http:
        for response in (
            http.post("api/jobs", json={"path": str(found)}),
            http.put("api/uploads/a.mp4", content=b"x"),
        ):
            assert "shows one result" in response.json()["error"]


def test_only_a_few_results_are_open_at_a_time(page, found):
    numbers = [show_result(page, found) for _ in range(6)]
    with client(page) as http:
        for number in numbers:
            assert http.get(f"api/results/{number}").status_code == 200
        assert len(page._players) == 4
        assert http.get(f"api/results/{numbers[0]}").status_code == 200


@pytest.mark.parametrize(
    "name, safe",
    [
        ("a.mp4", "a.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\films\\my film.mov", "my_film.mov"),
        (".hidden", "hidden"),
        ("..", "video"),
        ("", "video"),
        ("très bien.mp4", "très_bien.mp4"),
        ("x" * 300 + ".mp4", "x" * 80),
    ],
)
def test_names_of_uploads(name, safe):
    assert safe_name(name) == safe


def test_planes_are_compressed(page, found):
    number = show_result(page, found)
    page.queue.start()
    ids, content = page.player(number).masks(2)
    page.close()
    assert ids == [1, 2, 3] and len(gzip.decompress(content)) == 2 * HEIGHT * WIDTH
    assert page.queue.get(number).state != WAITING
