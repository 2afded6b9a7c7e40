"""Initialisers of convolution and dense kernels, shared by all modules."""

from flax import linen as nn

# Uniform in +-1/sqrt(fan_in), as in the published program.
dense_kernel = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
conv_kernel = dense_kernel
# The same for a transposed convolution `[c, 2, 2, d]`. Its fan-in is that of the output channels.
transposed_kernel = nn.initializers.variance_scaling(
    1.0 / 3.0, "fan_in", "uniform", in_axis=(1, 2, 3), out_axis=0
)
# Initial bias of the mask logits. A layer covers about a tenth of the pixels; without this prior,
# the first thousand steps, with the largest gradients, only learn that.
MASK_LOGIT_BIAS = -2.0
# Glorot uniform over the packed query, key and value projection, as in the published program. The
# packed matrix has 4c fans, so each c x c part has half the variance of Glorot over one part.
attention_kernel = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")
