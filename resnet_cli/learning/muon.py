"""Muon: steps of the same size in every direction that a kernel can move in, so that few of them go far.

In: a gradient, a kernel and its momentum. Out: the kernel moved.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; that the norm of a kernel is kept is from
their training of CIFAR-10 (airbench). Keras' own Muon takes matrices alone, and gives the kernels of convolutions to AdamW.
"""

from typing import Any

from keras import ops

# Of their quintic, which takes singular values to 0.7 to 1.2 in few iterations, rather than to 1 in many.
_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_EPSILON = 1e-7


def muon_step(optimizer: Any, gradient: Any, variable: Any, place: int, rate: Any) -> None:
    """Move a kernel along its orthogonalised momentum by `rate` times its norm, and keep that norm.

    Args:
        optimizer: Keras' SGD, whose momentum (0..1) and Nesterov's look ahead average the gradients.
        gradient: of the kernel, (..., inputs, outputs) as the kernel.
        variable: the kernel. Batch-norm behind it makes its norm irrelevant, so it needs no weight decay; where there is none,
            as behind the last convolutions of pre-activation blocks, the norm stays what it was in the beginning.
        place: of the kernel among the optimizer's variables.
        rate: step over norm, 0..1.
    """
    direction = gradient
    if share := optimizer.momentum:
        momentum = optimizer.momentums[place]
        optimizer.assign(momentum, share * momentum + gradient)
        direction = gradient + share * momentum if optimizer.nesterov else ops.convert_to_tensor(momentum)
    step = ops.reshape(orthogonal(ops.reshape(direction, (-1, variable.shape[-1]))), variable.shape)
    kernel = ops.convert_to_tensor(variable)
    norm = _norm(kernel)
    moved = kernel - step * (rate * norm / (_norm(step) + _EPSILON))
    optimizer.assign(variable, moved * (norm / (_norm(moved) + _EPSILON)))


def orthogonal(matrix: Any) -> Any:
    """Nearly the closest matrix (M, N) whose columns, or rows if there are fewer, are orthonormal: singular values about 1.

    Directions without any gradient stay without.
    """
    wide = matrix.shape[0] < matrix.shape[1]
    matrix = ops.transpose(matrix) if wide else matrix
    matrix = matrix / (_norm(matrix) + _EPSILON)
    for _ in range(_ITERATIONS):
        gram = ops.matmul(ops.transpose(matrix), matrix)
        matrix = _LINEAR * matrix + ops.matmul(matrix, _CUBIC * gram + _QUINTIC * ops.matmul(gram, gram))
    return ops.transpose(matrix) if wide else matrix


def _norm(values: Any) -> Any:
    return ops.sqrt(ops.sum(ops.square(values)))
