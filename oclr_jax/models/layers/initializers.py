"""Initial values of convolution and linear kernels, the same in every module."""

from flax import linen as nn

# Uniform in +-1/sqrt(fan_in): the start from which the published program trains.
dense_kernel = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
conv_kernel = dense_kernel
# The same for a transposed convolution `[c, 2, 2, d]`, whose fan-in there is that of its output.
transposed_kernel = nn.initializers.variance_scaling(
    1.0 / 3.0, "fan_in", "uniform", in_axis=(1, 2, 3), out_axis=0
)
# A layer covers about a tenth of the pixels. From this bias a training need not spend its first
# thousand steps, and its largest gradients, on learning that.
RARE = -2.0
# Uniform Glorot over the packed query, key and value projection, which has 4c fans for each c x c
# part: half of the variance of Glorot over one part.
attention_kernel = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")
