"""The files of weights that this program knows, and the one place where weights are looked up.

Nothing is ever downloaded: users put the released files into the cache folder. Imports no jax.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from oclr_jax import storage
from oclr_jax.errors import UserError

SHIPPED = Path(__file__).resolve().parent / "shipped"
SUFFIXES = ("", ".safetensors", ".pth")


@dataclass(frozen=True)
class KnownWeights:
    """A file of weights that the authors of a model publish, or that comes with this package.

    name: the name under which it is found.
    kind: key of `kinds.KINDS`.
    purpose: what the weights are for.
    file: name of the file, in the package or in the cache folder.
    page: where its authors publish it; None for a file of this package.
    megabytes: size of the published file, where known.
    sha256: of the published file, where known.
    """

    name: str
    kind: str
    purpose: str
    file: str
    page: str | None = None
    megabytes: int | None = None
    sha256: str | None = None

    @property
    def path(self) -> Path:
        """Where the file is looked for."""
        return (cache_folder() if self.page else SHIPPED) / self.file


KNOWN = (
    KnownWeights(
        "oclr-small",
        "oclr",
        "segmentation; small model, trained on sharpened DIS flow (default)",
        "oclr-small.safetensors",
        megabytes=10,
    ),
    KnownWeights(
        "refine-small-selector",
        "selector",
        "--refine appearance, select; small model with a backbone of its own (default)",
        "refine-small-selector.safetensors",
        megabytes=3,
    ),
    KnownWeights(
        "refine-small-corrector",
        "corrector",
        "--refine appearance, correct; small model with a backbone of its own (default)",
        "refine-small-corrector.safetensors",
        megabytes=1,
    ),
    KnownWeights(
        "oclr-released",
        "oclr",
        "segmentation; the authors' flow-only model, trained on RAFT flow",
        "oclr-released.pth",
        page="https://github.com/Jyxarthur/OCLR_model",
    ),
    KnownWeights(
        "raft-things",
        "raft",
        "optical flow, --flow raft",
        "raft-things.pth",
        page="https://github.com/princeton-vl/RAFT",
        megabytes=21,
        sha256="fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1",
    ),
    KnownWeights(
        "raft-small",
        "raft",
        "optical flow, --flow raft-small",
        "raft-small.pth",
        page="https://github.com/princeton-vl/RAFT",
        megabytes=4,
    ),
    KnownWeights(
        "dino_deitsmall8_pretrain",
        "dino",
        "image features, DINO ViT-S/8; --refine tta, oclr propagate",
        "dino_deitsmall8_pretrain.pth",
        page="https://github.com/facebookresearch/dino",
        megabytes=87,
    ),
    KnownWeights(
        "dino_deitsmall16_pretrain",
        "dino",
        "image features, DINO ViT-S/16",
        "dino_deitsmall16_pretrain.pth",
        page="https://github.com/facebookresearch/dino",
        megabytes=87,
    ),
    KnownWeights(
        "dino_vitbase8_pretrain",
        "dino",
        "image features, DINO ViT-B/8",
        "dino_vitbase8_pretrain.pth",
        page="https://github.com/facebookresearch/dino",
        megabytes=343,
    ),
    KnownWeights(
        "dino_vitbase16_pretrain",
        "dino",
        "image features, DINO ViT-B/16",
        "dino_vitbase16_pretrain.pth",
        page="https://github.com/facebookresearch/dino",
        megabytes=343,
    ),
    KnownWeights(
        "dinov2_vits14_pretrain",
        "dino",
        "image features, DINOv2 ViT-S/14",
        "dinov2_vits14_pretrain.pth",
        page="https://github.com/facebookresearch/dinov2",
        megabytes=88,
    ),
    KnownWeights(
        "dinov2_vits14_reg4_pretrain",
        "dino",
        "image features, DINOv2 ViT-S/14 with registers",
        "dinov2_vits14_reg4_pretrain.pth",
        page="https://github.com/facebookresearch/dinov2",
        megabytes=88,
    ),
    KnownWeights(
        "mae_pretrain_vit_base",
        "dino",
        "image features, MAE ViT-B/16",
        "mae_pretrain_vit_base.pth",
        page="https://github.com/facebookresearch/mae",
        megabytes=343,
    ),
    *(
        KnownWeights(
            f"motion-grouping-{dataset}",
            "motion_grouping",
            f"--model motion-grouping; the authors' ckpt_{dataset}, trained on RAFT flow",
            f"motion-grouping-{dataset}.pth",
            page="https://github.com/charigyang/motiongrouping",
        )
        for dataset in ("davis", "segtrack", "fbms", "moca")
    ),
    KnownWeights(
        "sam_vit_b_01ec64",
        "sam",
        "--refine sam:vit_b; SAM ViT-B, trained with human annotation",
        "sam_vit_b_01ec64.pth",
        page="https://github.com/facebookresearch/segment-anything",
        megabytes=375,
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    KnownWeights(
        "sam_vit_l_0b3195",
        "sam",
        "--refine sam:vit_l; SAM ViT-L, trained with human annotation",
        "sam_vit_l_0b3195.pth",
        page="https://github.com/facebookresearch/segment-anything",
        megabytes=1250,
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    KnownWeights(
        "sam_vit_h_4b8939",
        "sam",
        "--refine sam; SAM ViT-H, trained with human annotation",
        "sam_vit_h_4b8939.pth",
        page="https://github.com/facebookresearch/segment-anything",
        megabytes=2565,
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    KnownWeights(
        "sam_hq_vit_b",
        "sam",
        "--refine sam:hq_vit_b; HQ-SAM ViT-B, trained with human annotation",
        "sam_hq_vit_b.pth",
        page="https://github.com/SysCV/sam-hq",
    ),
    KnownWeights(
        "sam_hq_vit_l",
        "sam",
        "--refine sam:hq_vit_l; HQ-SAM ViT-L, trained with human annotation",
        "sam_hq_vit_l.pth",
        page="https://github.com/SysCV/sam-hq",
    ),
    KnownWeights(
        "sam_hq_vit_h",
        "sam",
        "--refine sam:hq_vit_h; HQ-SAM ViT-H, trained with human annotation",
        "sam_hq_vit_h.pth",
        page="https://github.com/SysCV/sam-hq",
    ),
)


def cache_folder() -> Path:
    """The folder in which users put weights to be found by name."""
    return storage.cache_folder("weights")


def find_weights(name_or_path: str | os.PathLike) -> Path:
    """Finds a file of weights.

    Args:
      name_or_path: a path; else a name in the package or in the cache folder, where the suffix
        may be left out.

    Raises:
      UserError: there is no such file, or a file of the cache folder has the name of a published
        one and is another.
    """
    name = os.fspath(name_or_path)
    if not name:
        raise UserError(
            "The name of the weights is empty; give a file, or a name of `oclr weights`."
        )
    if Path(name).is_file():
        return Path(name)
    for folder in (SHIPPED, cache_folder()):
        for suffix in SUFFIXES:
            path = folder / f"{name}{suffix}"
            if path.is_file() and path.parent == folder:
                _check_published(path)
                return path
    known = next((known for known in KNOWN if name in (known.name, known.file)), None)
    if known and known.page:
        raise UserError(
            f"There are no weights {name}: get them from {known.page} and put them into "
            f"{cache_folder()} as {known.file}, or give a file of weights."
        )
    names = ", ".join(known.name for known in KNOWN)
    raise UserError(
        f"There are no weights {name}: neither a file, nor in {cache_folder()}, nor one of the "
        f"known names ({names})."
    )


def _check_published(path: Path) -> None:
    known = next((known for known in KNOWN if known.path == path), None)
    if known is None or known.sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != known.sha256:
        raise UserError(
            f"{path} is not the published {known.file}, its SHA-256 differs; download it again, or "
            "give weights of your own by their path."
        )


def list_weights() -> str:
    """A table of the known weights: purpose, size, place, and where to get those that are missing.

    Other files in the cache folder, which are found by their name too, are listed at its end.
    """
    lines = []
    for known in KNOWN:
        size = f", {known.megabytes} MB" if known.megabytes else ""
        lines.append(f"{known.name}: {known.purpose}{size}")
        if known.path.is_file():
            lines.append(f"  present: {known.path}")
        else:
            lines.append(f"  missing: {known.path}")
            lines.append(f"  published at {known.page}")
    folder = cache_folder()
    mine = sorted(folder.iterdir()) if folder.is_dir() else []
    files = {known.path for known in KNOWN}
    lines += [f"{path.name}: present: {path}" for path in mine if path not in files]
    return "\n".join(lines)
