"""Which weights each name of `--refine sam` means, and how the model is prompted."""

# By the name of the refiner, the name of its weights. The papers do not say which size they used;
# ViT-H is the default of the published program.
SAM_WEIGHTS = {
    "sam": "sam_vit_h_4b8939",
    "sam:vit_l": "sam_vit_l_0b3195",
    "sam:vit_b": "sam_vit_b_01ec64",
    "sam:hq_vit_h": "sam_hq_vit_h",
    "sam:hq_vit_l": "sam_hq_vit_l",
    "sam:hq_vit_b": "sam_hq_vit_b",
}
# Points inside each mask: second paper, supplement A.3, "approximately 10".
POINTS = 10
