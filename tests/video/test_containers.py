"""Files that are cut or have holes, where no header says how many frames there should be."""

import av
import pytest
from PIL import Image

from oclr_jax.errors import UserError
from oclr_jax.video.containers import lacks_frames
from oclr_jax.video.reader import open_video
from tests.video.videos import encode, noise

FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
GROUPS = {"g": "3", "keyint_min": "3", "sc_threshold": "0"}


def fragmented(folder):
    return encode(folder / "v.mp4", noise(12), options=GROUPS, container_options=FRAGMENTS)


def live_webm(folder):
    """Without a duration; the lengths of its clusters are unknown, as browsers write them."""
    options, live = {"g": "3"}, {"live": "1", "cluster_time_limit": "100"}
    path = folder / "v.webm"
    return encode(path, noise(12), "libvpx-vp9", options=options, container_options=live)


def webm(folder):
    options = {"cluster_time_limit": "100"}
    path = folder / "v.webm"
    return encode(path, noise(12), "libvpx-vp9", options={"g": "3"}, container_options=options)


def gif(folder):
    first, *rest = [Image.fromarray(frame).quantize(16) for frame in noise(6)]
    first.save(folder / "v.gif", save_all=True, append_images=rest, duration=40)
    return folder / "v.gif"


@pytest.mark.parametrize("make", [fragmented, live_webm, webm, gif])
def test_whole_and_cut_files(tmp_path, make):
    path = make(tmp_path)
    content = path.read_bytes()
    assert not lacks_frames(path)
    whole = len(list(open_video(path)))
    assert whole == (6 if make is gif else 12)
    for share in (0.5, 0.71, 0.83):
        path.write_bytes(content[: round(share * len(content))])
        assert lacks_frames(path)
        with pytest.raises(UserError, match="frames are whole"):
            list(open_video(path))
        kept = open_video(path, keep_damaged=True)
        assert 2 <= len(list(kept)) == kept.damage.frames < whole


@pytest.mark.parametrize("make", [webm, gif])
def test_holes(tmp_path, make):
    path = make(tmp_path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    assert lacks_frames(path)


@pytest.mark.parametrize("make", [fragmented, webm, gif])
def test_padding_behind_a_whole_file_is_no_damage(tmp_path, make):
    path = make(tmp_path)
    path.write_bytes(path.read_bytes() + bytes(500))
    assert not lacks_frames(path)


def test_an_index_that_was_cut_off_costs_no_frame(tmp_path):
    path = encode(tmp_path / "v.mkv", noise(8))
    content = path.read_bytes()
    with av.open(str(path)) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
    path.write_bytes(content[: content.rindex(b"\x1c\x53\xbb\x6b") + 9])
    assert last.pos < len(path.read_bytes()) < len(content)
    assert len(list(open_video(path))) == 8


def test_other_formats_are_not_looked_into(tmp_path):
    for name, codec in (("v.avi", "mpeg4"), ("v.ts", "libx264")):
        path = encode(tmp_path / name, noise(3), codec)
        path.write_bytes(path.read_bytes()[:5000])
        assert not lacks_frames(path)
    (tmp_path / "empty").write_bytes(b"")
    assert not lacks_frames(tmp_path / "empty")
