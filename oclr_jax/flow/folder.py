"""A folder of flow files as a source of flow, in the layout of the published program.

The files are `.flo`, or KITTI's 16-bit `.png` if the folder has no `.flo` files.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from oclr_jax.errors import UserError
from oclr_jax.flow.flo import read_flo, read_flo_size
from oclr_jax.flow.gaps import neighbour
from oclr_jax.flow.kitti import read_kitti, read_kitti_size
from oclr_jax.flow.unknown import MAX_UNKNOWN, fill_unknown
from oclr_jax.video.names import without_junk


def flow_path(folder: str | os.PathLike, gap: int, stem: str, sequence: str | None = None) -> Path:
    """Path of the flow of one frame: `Flows_gap<gap>/[<sequence>/]<stem>.flo`."""
    return Path(folder) / f"Flows_gap{gap}" / (sequence or "") / f"{stem}.flo"


class FlowFolder:
    """The flow of one video, read from a folder that is checked against the frames on opening.

    A frame whose neighbour at a gap does not exist needs no file; it takes the negated flow of the
    opposite gap, like estimated flow. All files must have the same size, which may be any (the
    published RAFT flow is a little wider than its frames).
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        stems: Sequence[str],
        gaps: Sequence[int] = (1, -1),
        sequence: str | None = None,
    ):
        """Opens the flow of the frames `stems`, in this order.

        `sequence` names the subfolder to use if the folder holds several videos. Without it, or
        without such a subfolder, the files are those in `Flows_gap<gap>` or in its only subfolder.

        Raises:
          UserError: files are missing, superfluous, unreadable or of different sizes.
        """
        self.folder = Path(folder)
        self.stems = list(stems)
        self.gaps = tuple(gaps)
        if not self.folder.is_dir():
            raise UserError(f"The flow folder {self.folder} does not exist; check the path.")
        self._places = {gap: self._find(gap, sequence) for gap in self._gaps_needed()}
        for gap in self._places:
            self._check_names(gap)
        self.height, self.width = self._common_size()

    def __len__(self) -> int:
        return len(self.stems)

    def __iter__(self) -> Iterator[Float32[np.ndarray, "H W c"]]:
        """Yields the flow of each frame; see `read`."""
        return (self.read(index) for index in range(len(self)))

    def read(self, index: int, within: range | None = None) -> Float32[np.ndarray, "H W c"]:
        """Flow of one frame at all gaps: channels (u, v) per gap, in pixels of the stored grid.

        Unknown vectors are filled in from the nearest known one. Only frames `within` (a shot)
        count as neighbours; None for all frames.

        Raises:
          UserError: a file cannot be read, or more than half of its vectors are unknown.
        """
        fields = []
        for gap in self.gaps:
            file_gap, sign = self._source(index, gap, within)
            fields.append(sign * _read(self._file(file_gap, index)))
        return np.concatenate(fields, axis=-1)

    def _source(self, index: int, gap: int, within: range | None = None) -> tuple[int, int]:
        clip = within or range(len(self.stems))
        _, sign = neighbour(index - clip.start, gap, len(clip))
        return sign * gap, sign

    def _gaps_needed(self) -> list[int]:
        frames = range(len(self.stems))
        return sorted({self._source(index, gap)[0] for gap in self.gaps for index in frames})

    def _file(self, gap: int, index: int) -> Path:
        place = self._places[gap]
        return place / f"{self.stems[index]}{_suffix(place)}"

    def _files_needed(self) -> list[Path]:
        frames = range(len(self.stems))
        sources = {(self._source(index, gap)[0], index) for gap in self.gaps for index in frames}
        return [self._file(gap, index) for gap, index in sorted(sources)]

    def _find(self, gap: int, sequence: str | None) -> Path:
        root = flow_path(self.folder, gap, "any").parent
        if not root.is_dir():
            raise UserError(
                f"The flow folder {self.folder} has no {root.name}; it needs one folder "
                "Flows_gap<gap> of .flo files for each gap."
            )
        if sequence is not None and (root / sequence).is_dir():
            return root / sequence
        if _suffix(root):
            return root
        subfolders = sorted(path for path in without_junk(root.iterdir()) if path.is_dir())
        if len(subfolders) > 1:
            raise UserError(
                f"{root} holds the flow of {len(subfolders)} videos, none of them called "
                f"{sequence!r}; name the subfolder as the video or give a folder of one video."
            )
        if subfolders and _suffix(subfolders[0]):
            return subfolders[0]
        raise UserError(f"The flow folder {root} is empty; put one .flo file per frame there.")

    def _check_names(self, gap: int) -> None:
        place = self._places[gap]
        present = {path.stem for path in without_junk(place.glob(f"*{_suffix(place)}"))}
        unknown = sorted(present - set(self.stems))
        missing = [file for file in self._files_needed() if not file.is_file()]
        missing = [file for file in missing if file.parent == self._places[gap]]
        if not (unknown or missing):
            return
        example = f"{missing[0].name} is missing" if missing else f"no frame is called {unknown[0]}"
        raise UserError(
            f"The flow in {self._places[gap]} does not match the {len(self.stems)} frames: "
            f"{example} ({len(missing)} files missing, {len(unknown)} superfluous)."
        )

    def _common_size(self) -> tuple[int, int]:
        sizes: dict[tuple[int, int], Path] = {}
        for file in self._files_needed():
            size = read_flo_size(file) if file.suffix == ".flo" else read_kitti_size(file)
            sizes.setdefault(size, file)
        if len(sizes) > 1:
            (one, one_file), (other, other_file) = list(sizes.items())[:2]
            raise UserError(
                f"The flow files differ in size: {one_file} is {one[0]}x{one[1]} and {other_file} "
                f"is {other[0]}x{other[1]}; write them all at one size."
            )
        return next(iter(sizes))


def _suffix(folder: Path) -> str:
    """The suffix of the flow files in a folder; empty if it has none."""
    present = {path.suffix for path in without_junk(folder.iterdir())}
    return next((suffix for suffix in (".flo", ".png") if suffix in present), "")


def _read(path: Path) -> Float32[np.ndarray, "h w 2"]:
    """The flow of a file; unknown vectors are filled in.

    Raises:
      UserError: the file cannot be read, or more than half of its vectors are unknown.
    """
    flow, known = read_flo(path) if path.suffix == ".flo" else read_kitti(path)
    unknown = 1 - known.mean()
    if unknown > MAX_UNKNOWN:
        raise UserError(
            f"The flow file {path} is unknown or not finite at {unknown:.0%} of its pixels, and at "
            f"most {MAX_UNKNOWN:.0%} can be filled in; estimate the flow of this frame again."
        )
    return fill_unknown(flow, known)
