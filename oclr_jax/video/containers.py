"""Whether a file holds all coded frames that its container begins or encloses.

FFmpeg reads a file that was cut, or that has a hole, up to the damage or past it without a word.
Where a container announces neither its duration nor its number of frames, its nesting shows what is
missing: every part states its length.
"""

import os
from pathlib import Path
from typing import BinaryIO

# Identifiers of Matroska and WebM (RFC 9559).
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_EVERYWHERE = {0xEC, 0xBF}  # void, checksum
_IN_SEGMENT = _EVERYWHERE | {
    0x114D9B74,  # seek head
    0x1549A966,  # info
    0x1654AE6B,  # tracks
    _CLUSTER,
    0x1C53BB6B,  # cues
    0x1941A469,  # attachments
    0x1043A770,  # chapters
    0x1254C367,  # tags
}
_IN_CLUSTER = _EVERYWHERE | {
    0xE7,  # time stamp
    0x5854,  # silent tracks
    0xA7,  # position
    0xAB,  # size of the cluster before
    0xA3,  # simple block
    0xA0,  # block group
    0xAF,  # encrypted block
}
# Boxes of mp4 and mov (ISO/IEC 14496-12) without which frames are missing.
_MEDIA_BOXES = {b"moov", b"moof", b"mdat"}


def lacks_frames(path: Path) -> bool:
    """Whether frames are missing by the structure of an mp4, mov, mkv, webm or gif file.

    False for every other format, and for damage that does not touch the nesting.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(8)
        file.seek(0)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _matroska_lacks_frames(file, size)
        if head[4:8] in {b"ftyp", b"wide", b"free", b"skip", *_MEDIA_BOXES}:
            return _mp4_lacks_frames(file, size)
        if head[:4] == b"GIF8":
            return _gif_lacks_frames(file)
    return False


def _mp4_lacks_frames(file: BinaryIO, size: int) -> bool:
    position, fragmented = 0, False
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0 and kind in _MEDIA_BOXES:
            return False  # up to the end of the file
        if length < 8:
            # Padding, or what cameras append; between fragments it is a hole.
            return fragmented and any(header + file.read())
        fragmented |= kind == b"moof"
        position += length
        if position > size:
            return kind in _MEDIA_BOXES
    return False


def _matroska_lacks_frames(file: BinaryIO, size: int) -> bool:
    cluster_end = None  # of the open cluster; None outside
    segment_end = size
    while (start := file.tell()) < segment_end:
        if cluster_end is not None and start >= cluster_end:
            cluster_end = None
        kind = _read_number(file, keep_marker=True)
        length = _read_number(file)
        if kind is None or length is None:
            # The end, within a header or not: in a cluster of known length something is missing.
            return cluster_end not in (None, size) or (cluster_end is None and start < size)
        body = file.tell()
        unknown = length < 0
        if kind == _SEGMENT:
            segment_end = size if unknown else body + length
            continue
        if cluster_end is not None and kind not in _IN_CLUSTER:
            if cluster_end != size or kind not in _IN_SEGMENT:
                return True
            cluster_end = None  # a cluster of unknown length ends where the next part begins
        if kind == _CLUSTER:
            cluster_end = size if unknown else body + length
            continue
        if cluster_end is None and start > 0 and kind not in _IN_SEGMENT:
            return True
        if unknown:
            return False  # nothing that this function can follow
        if body + length > size:
            return cluster_end is not None
        file.seek(body + length)
    return False


def _read_number(file: BinaryIO, keep_marker: bool = False) -> int | None:
    """A number of variable length (RFC 8794): None at the end, -1 where all its bits are set."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    rest = file.read(more)
    if len(rest) < more:
        return None
    number = int.from_bytes(first + rest, "big")
    if keep_marker:
        return number
    bits = 7 * (more + 1)
    number &= (1 << bits) - 1
    return -1 if number == (1 << bits) - 1 else number


def _gif_lacks_frames(file: BinaryIO) -> bool:
    file.seek(10)
    packed = file.read(3)
    if len(packed) < 3:
        return True
    file.seek(_colour_bytes(packed[0]), os.SEEK_CUR)
    while True:
        kind = file.read(1)
        if kind in (b"", b"\x3b"):  # the end, with or without its mark
            return False
        if kind == b"\x21":
            file.read(1)
        elif kind == b"\x2c":
            descriptor = file.read(9)
            if len(descriptor) < 9:
                return True
            file.seek(_colour_bytes(descriptor[8]) + 1, os.SEEK_CUR)
        else:
            return any(kind + file.read())  # zeros are padding
        # Blocks of at most 255 bytes, the last one empty.
        while length := file.read(1):
            if length == b"\x00":
                break
            if len(file.read(length[0])) < length[0]:
                return True
        else:
            return True


def _colour_bytes(packed: int) -> int:
    """Bytes of the colour table that the flags of a GIF announce."""
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0
