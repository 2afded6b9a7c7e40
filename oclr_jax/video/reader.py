"""Frames in: video files and folders of images, as a stream of RGB frames."""

import os
import stat
from pathlib import Path

from oclr_jax.errors import UserError
from oclr_jax.files import check_input
from oclr_jax.video.file import VideoFile
from oclr_jax.video.folder import FrameFolder

# Under this many rows or columns nothing is left at the model's coarsest scale.
MIN_FRAME_SIDE = 16

VideoSource = VideoFile | FrameFolder


def open_video(path: str | os.PathLike, keep_damaged: bool = False) -> VideoSource:
    """Opens a video file or a folder of images; the source can be iterated any number of times.

    With `keep_damaged`, the frames of a damaged video file that are whole are taken.

    Raises UserError, here or while iterating, where the path is missing, is no video or has no
    images, has fewer than two frames or sides under 16 px, mixes sizes, or is damaged; OSError
    where it may not be read.
    """
    path = check_input(path)
    _check_file(path)
    video = FrameFolder(path) if path.is_dir() else VideoFile(path, keep_damaged)
    if min(video.height, video.width) < MIN_FRAME_SIDE:
        raise UserError(
            f"The frames of {path} are {video.width}x{video.height} pixels; each side needs at "
            f"least {MIN_FRAME_SIDE}."
        )
    return video


def _check_file(path: Path) -> None:
    """Raises UserError for a path that cannot be read again and again, or not named in results."""
    if str(path) != str(path).encode(errors="replace").decode():
        raise UserError(f"The name {str(path)!r} is not valid UTF-8; rename it.")
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        # FFmpeg's own message would not name the reason.
        with open(path, "rb"):
            return
    if not stat.S_ISDIR(mode):
        raise UserError(f"{path} is a pipe or a device; save the video as a file first.")
