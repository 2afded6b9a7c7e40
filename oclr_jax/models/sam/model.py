"""Segment Anything as one model: an image once, then any number of prompts on it.

Kirillov et al.: "Segment Anything" (ICCV 2023). Ke et al.: "Segment Anything in High Quality"
(NeurIPS 2023). The second paper prompts both with its masks (supplement A.3 and C.4).
"""

from functools import lru_cache

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.parameters import flatten
from oclr_jax.models.sam.config import SAMConfig
from oclr_jax.models.sam.decoder import MaskDecoder, Masks
from oclr_jax.models.sam.encoder import ImageEncoder
from oclr_jax.models.sam.prompts import PromptEncoder, Prompts


class SAM(nn.Module):
    """Image encoder, prompt encoder and mask decoder; the only variables are "params".

    Example:
      embedding = model.apply(variables, image[None], method=SAM.encode)[0]
      masks = model.apply(variables, embedding, Prompts(points, labels), method=SAM.decode)
    """

    config: SAMConfig

    def setup(self):
        self.encoder = ImageEncoder(self.config)
        self.prompts = PromptEncoder(self.config)
        self.decoder = MaskDecoder(self.config)

    def __call__(self, image: Float[Array, "s s 3"], prompts: Prompts) -> Masks:
        """Masks of n prompts on one image, see `encode` and `decode`."""
        return self.decode(self.encode(image[None])[0], prompts)

    def encode(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b g g e"]:
        """Embeddings of images, on which any number of prompts can then be decoded.

        Args:
          images: from `frames.square_image`.
        """
        return self.encoder(images)

    def decode(self, embedding: Float[Array, "g g e"], prompts: Prompts) -> Masks:
        """Masks of n prompts on the image of this embedding.

        Raises:
          ValueError: there is no prompt, or points have no labels.
        """
        if all(part is None for part in prompts):
            raise ValueError("a prompt needs points, boxes or masks")
        if (prompts.points is None) != (prompts.labels is None):
            raise ValueError("points and labels go together")
        sparse, dense = self.prompts(prompts)
        return self.decoder(embedding, self.prompts.positions(), sparse, dense)


@lru_cache(maxsize=4)
def parameter_shapes(config: SAMConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every variable of the model, by its path `params/a/b`."""
    image = jax.ShapeDtypeStruct((config.side, config.side, 3), "f4")
    prompts = Prompts(
        points=jax.ShapeDtypeStruct((1, 1, 2), "f4"),
        labels=jax.ShapeDtypeStruct((1, 1), "i4"),
        masks=jax.ShapeDtypeStruct((1, config.mask_side, config.mask_side), "f4"),
    )
    variables = jax.eval_shape(SAM(config).init, jax.random.key(0), image, prompts)
    return {path: leaf.shape for path, leaf in flatten(variables).items()}
