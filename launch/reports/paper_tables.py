"""The tables of both papers: their rows, the published figures, and the command for each row.

First paper: Xie et al., NeurIPS 2022, tables 2 and 3 and supplement, tables E6 to E9 (table 1
repeats rows of E7). Second paper: Xie et al., ECCV 2024, tables 3 to 20 (tables 1 and 2 are parts
of 19 and 20). J and F in percent, AP and SR as fractions.
"""

from launch.reports.paper_rows import (
    ANNOTATED,
    DINO,
    EVALUATE,
    FLOW_COMMANDS,
    REFINE,
    RELEASED,
    UPSAMPLING,
    PaperTable,
    Row,
    Setting,
    adapted,
    benchmark_rows,
    corrector_row,
    experiment_rows,
    method_row,
    propagation_row,
    refined,
    selector_row,
    training_command,
    with_geometric,
)
from oclr_jax.datasets.ablations import COLUMNS, E6, E7, E8, REPEATED, REPEATS, TITLES

_YTVOS_DAVIS = ("YTVOS18-m J", "DAVIS17-m J")
_SINGLE = ("DAVIS2016 J", "SegTrackv2 J", "FBMS-59 J", "MoCA SR")

FIRST_PAPER = (
    PaperTable(
        "Table 2: one foreground",
        "davis2016",
        _SINGLE,
        with_geometric(
            benchmark_rows(
                "first",
                {
                    "davis2016": ("J",),
                    "segtrack_v2": ("J",),
                    "fbms59": ("J",),
                    "moca_filter": ("SR",),
                },
            )
        ),
    ),
    PaperTable(
        "Table 3: several objects, DAVIS2017-motion",
        "davis2017_motion",
        ("J&F", "J", "F"),
        with_geometric(
            (
                method_row("Motion Grouping", 35.8, 38.4, 33.2),
                method_row("OCLR (flow-only)", 55.1, 54.5, 55.7),
                method_row("OCLR (test. adap.)", 64.0, 63.9, 64.0),
                method_row("CorrFlow (first-frame mask)", 54.0, 54.2, 53.7),
                method_row("UVC (first-frame mask)", 65.5, 66.2, 64.7),
                method_row("MAST (first-frame mask)", 70.9, 71.0, 70.8),
                method_row("CRW (first-frame mask)", 73.4, 72.9, 74.1),
                method_row("DINO (first-frame mask)", 78.7, 77.7, 79.6),
            )
        ),
    ),
    PaperTable(TITLES[E6], "davis2016", COLUMNS[E6], experiment_rows(E6)),
    PaperTable(
        f"{TITLES[E7]} (table 1 has some of its rows)",
        "davis2017_motion",
        COLUMNS[E7],
        experiment_rows(E7),
    ),
    PaperTable(
        TITLES[E8],
        "davis2017_motion",
        COLUMNS[E8],
        tuple(
            Row(
                f"repeat {number}",
                tuple(map(str, figures)),
                (training_command(f"oclr_flow.py:{REPEATED}", f"seed={number}"),),
                "`syn_train`, 5 days on a V100 each",
            )
            for number, figures in enumerate(REPEATS)
        ),
    ),
    PaperTable(
        "Table E9: test-time adaptation",
        "davis2016",
        ("DAVIS2016 J", "DAVIS2017-motion J"),
        (
            propagation_row("Ours-J: flow only", "", 72.1, 54.5),
            propagation_row("Ours-K: propagation", "tta-propagate", 76.5, 60.9),
            propagation_row("Ours-L: and dynamic refinement", "tta-frozen", 77.4, 63.5),
            propagation_row("Ours-M: and fine-tuning", "tta", 78.9, 63.9),
        ),
    ),
)

SECOND_PAPER = (
    PaperTable(
        "Table 3: mask selection",
        "davis2017_motion",
        ("DAVIS17-m AP",),
        (
            selector_row("random", 0.568),
            selector_row("propagation", 0.830),
            selector_row("score", 0.832, "selector.py:score"),
            selector_row("error map", 0.893, "selector.py"),
        ),
    ),
    PaperTable(
        "Table 4: effect of the corrector",
        "davis2017_motion",
        _YTVOS_DAVIS,
        (
            propagation_row("before", "", 46.5, 54.5),
            corrector_row("after", (60.9, 60.0)),
        ),
    ),
    PaperTable(
        "Table 5: architecture of the corrector",
        "davis2017_motion",
        _YTVOS_DAVIS,
        (
            corrector_row("alphas upsampled", (54.6, 55.8), config="corrector.py:alphas"),
            corrector_row("not object-centric", (58.8, 59.2), config="corrector.py:dense"),
            corrector_row("attention maps, object-centric", (60.9, 60.0)),
        ),
    ),
    PaperTable(
        "Table 6: target frames T",
        "davis2017_motion",
        _YTVOS_DAVIS,
        tuple(
            corrector_row(f"T = {frames}", figures, f"model.frames={frames}")
            for frames, figures in ((5, (60.6, 60.1)), (7, (60.9, 60.0)), (10, (60.9, 59.9)))
        ),
    ),
    PaperTable(
        "Table 7: exemplars t per object",
        "davis2017_motion",
        _YTVOS_DAVIS,
        tuple(
            corrector_row(f"t = {count}", figures, f"model.exemplars={count}")
            for count, figures in ((5, (60.3, 59.8)), (10, (60.9, 60.0)), (15, (61.2, 59.7)))
        ),
    ),
    PaperTable(
        "Table 8: background queries",
        "davis2017_motion",
        ("DAVIS17-m J",),
        tuple(
            corrector_row(f"K_bg = {count}", figures, f"model.backgrounds={count}")
            for count, figures in ((1, (59.3,)), (4, (60.0,)))
        ),
    ),
    PaperTable(
        "Table 9: image features",
        "davis2017_motion",
        ("DAVIS17-m J",),
        tuple(
            corrector_row(
                name, figures, f"model.backbone={backbone}", f"model.feature_channels={channels}"
            )
            for name, figures, backbone, channels in (
                ("MAE", (55.1,), "mae_vitb16", 768),
                ("DINO", (60.0,), "dino_vits8", 384),
                ("DINOv2", (59.2,), "dinov2_vits14", 384),
            )
        ),
    ),
    PaperTable(
        "Table 10: optical flow",
        "davis2017_motion",
        ("DAVIS17-m J, flow model", "DAVIS17-m J, refined"),
        (
            Row("ARFlow", ("39.5", "53.2")),
            Row("MaskFlownet", ("49.0", "57.1")),
            Row("RAFT", ("54.5", "60.0"), (*FLOW_COMMANDS, *refined("appearance")), RELEASED),
            Row(
                "DIS (not in the paper)",
                ("", ""),
                (f"{EVALUATE} --weights OCLR --flow dis --refine none",),
                RELEASED,
                Setting("oclr"),
            ),
        ),
    ),
    PaperTable(
        "Table 11: flow segmentation models",
        "davis2017_motion",
        ("DAVIS17-m J, flow model", "DAVIS17-m J, refined"),
        with_geometric(
            (
                method_row("MG", 38.4, 48.4),
                method_row("MG-sup.", 44.9, 59.2),
                method_row("Mask R-CNN", 52.0, 57.4),
                method_row("OCLR-flow", 54.5, 60.0),
            )
        ),
    ),
    PaperTable(
        "Table 12: repeated trainings of the selector",
        "davis2017_motion",
        ("DAVIS17-m AP",),
        tuple(
            Row(
                f"repeat {number}",
                (str(figure),),
                (training_command("selector.py", f"seed={number}"),),
                f"`syn_train`; {DINO}",
            )
            for number, figure in enumerate((0.893, 0.886, 0.897))
        ),
    ),
    PaperTable(
        "Table 13: repeated trainings of the corrector",
        "davis2017_motion",
        _YTVOS_DAVIS,
        tuple(
            Row(
                f"repeat {number}",
                figures,
                (training_command("corrector.py", f"seed={number}"),),
                f"`syn_train`; {DINO}",
            )
            for number, figures in enumerate((("60.7", "59.8"), ("60.9", "60.0"), ("60.3", "60.3")))
        ),
    ),
    PaperTable(
        "Table 14: self-supervised adaptation",
        "davis2017_motion",
        _YTVOS_DAVIS,
        (
            corrector_row("none", (60.9, 60.0)),
            Row(
                "corrector",
                ("64.6", "63.2"),
                adapted("corrector", "appearance"),
                f"{RELEASED}; {REFINE}",
            ),
            Row(
                "corrector, flow model",
                ("66.6", "65.4"),
                adapted("corrector,flow", "appearance"),
                f"{RELEASED}; {REFINE}",
            ),
            Row(
                "corrector, flow model, corrector per sequence",
                ("66.9", "66.3"),
                adapted("corrector,flow", "appearance", "adapt"),
                f"{RELEASED}; {REFINE}",
            ),
            Row(
                "the same with CRF",
                ("67.1", "67.0"),
                adapted("corrector,flow", "appearance", "adapt", "crf"),
                f"{RELEASED}; {REFINE}",
            ),
        ),
    ),
    PaperTable(
        "Table 15: feature reconstruction in adaptation",
        "davis2017_motion",
        _YTVOS_DAVIS,
        (
            Row(
                "without",
                ("63.7", "62.6"),
                adapted(
                    "corrector",
                    *("appearance", "adapt:no-reconstruction"),
                    options=" --no-reconstruction",
                ),
                f"{RELEASED}; {REFINE}",
            ),
            Row(
                "with",
                ("65.0", "63.8"),
                adapted("corrector", "appearance", "adapt"),
                f"{RELEASED}; {REFINE}",
            ),
        ),
    ),
    PaperTable(
        "Table 16: supervised fine-tuning of the upsampling",
        "davis2017_motion",
        _YTVOS_DAVIS,
        (
            corrector_row("neither", (60.9, 60.0)),
            Row("fine-tuned", ("63.2", "61.5"), (*UPSAMPLING, *refined("appearance")), ANNOTATED),
            Row(
                "adapted",
                ("65.0", "63.8"),
                adapted("corrector", "appearance", "adapt"),
                f"{RELEASED}; {REFINE}",
            ),
            Row(
                "both",
                ("66.7", "64.1"),
                (*UPSAMPLING, *adapted("corrector", "appearance", "adapt")),
                ANNOTATED,
            ),
        ),
    ),
    PaperTable(
        "Table 17: post-processing",
        "davis2017_motion",
        _YTVOS_DAVIS,
        (
            Row("none", ("66.9", "66.3"), refined("appearance"), REFINE),
            Row("CRF", ("67.1", "67.0"), refined("appearance", "crf"), REFINE),
            Row("SAM", ("70.6", "70.4"), refined("appearance", "sam"), "SAM weights"),
            Row(
                "HQ-SAM", ("70.9", "71.2"), refined("appearance", "sam:hq_vit_h"), "HQ-SAM weights"
            ),
            Row("CRF, SAM", ("71.1", "70.9"), refined("appearance", "crf", "sam"), "SAM weights"),
            Row(
                "CRF, HQ-SAM",
                ("71.1", "71.3"),
                refined("appearance", "crf", "sam:hq_vit_h"),
                "HQ-SAM weights",
            ),
        ),
    ),
    PaperTable(
        "Table 18: OCLR-TTA with SAM",
        "davis2017_motion",
        _YTVOS_DAVIS,
        (
            Row(
                "OCLR-TTA + SAM",
                ("62.3", "69.4"),
                (FLOW_COMMANDS[0].replace("none", "tta,sam"),),
                f"{DINO}; SAM weights; a GPU",
                Setting("oclr", ("tta", "sam")),
            ),
            method_row("Ours (second paper) + SAM", 71.1, 70.9),
        ),
    ),
    PaperTable(
        "Table 19: several objects (table 1 has some of its rows)",
        "davis2017_motion",
        tuple(f"{name} {m}" for name in ("YTVOS18-m", "DAVIS17-m") for m in ("J&F", "J", "F")),
        with_geometric(
            (
                *benchmark_rows(
                    "second",
                    {"ytvos2018_motion": ("J&F", "J", "F"), "davis2017_motion": ("J&F", "J", "F")},
                ),
                method_row("CorrFlow (first-frame mask)", 55.2, 60.0, 50.4, 54.0, 54.2, 53.7),
                method_row("UVC (first-frame mask)", 66.9, 70.4, 63.4, 65.5, 66.2, 64.7),
                method_row("MAST (first-frame mask)", 70.5, 72.7, 68.2, 70.9, 71.0, 70.8),
                method_row("CRW (first-frame mask)", 72.9, 75.5, 70.4, 73.4, 72.9, 74.1),
                method_row("DINO (first-frame mask)", 75.4, 76.6, 74.3, 78.7, 77.7, 79.6),
            )
        ),
    ),
    PaperTable(
        "Table 20: one foreground (table 2 has some of its rows; here those of published.py)",
        "davis2016",
        _SINGLE[:3],
        with_geometric(
            benchmark_rows("second", {"davis2016": ("J",), "segtrack_v2": ("J",), "fbms59": ("J",)})
        ),
    ),
)
