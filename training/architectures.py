"""The networks, by name.

The first five are the ladder of the 2017 fast.ai lesson on convolutional networks. `cnn_slim`, `cnn_7x7` and
`cnn_padded` are unlike each other on purpose, since unlike members make the better ensemble. Every network takes
pixels and normalizes them itself: a caller cannot do it wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.errors import RecipeError

Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of the training pixels, each channel alone, in 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, pixels: Tensor) -> PixelStatistics:
        """Measure uint8 (count, channels, height, width); a constant channel counts as std 1."""
        levels = torch.arange(256, dtype=torch.float64)
        # How often each level comes, a row a channel: exact, and small however many images there are.
        counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in pixels.unbind(1)]).double()
        mean = (counts * levels).sum(1) / counts.sum(1)
        squares = (counts * (levels - mean[:, None]).square()).sum(1)
        variance = squares / (counts.sum(1) - 1).clamp_min(1)
        std = torch.where(variance > 0, variance.sqrt(), torch.ones_like(variance))
        return cls(tuple(mean.tolist()), tuple(std.tolist()))


FAINTEST_STROKE = 32.0
"""Strokes that differ less than this from their ground, in 0..255, are not brought to full contrast."""


class Normalize(nn.Module):
    """Pixels 0..255 in, values of mean 0 and standard deviation 1 out.

    With `strokes`, pictures are taken for strokes on a plain ground: the ground, which is what the border shows,
    becomes black and the strongest stroke white, whichever of them was lighter. Ink on grey paper is then read
    like the digits of MNIST, which this leaves as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, statistics: PixelStatistics, strokes: bool) -> None:
        super().__init__()
        self.strokes = strokes
        self.register_buffer("mean", torch.tensor(statistics.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(statistics.std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 (count, channels, height, width) in 0..255 to the same shape, normalized."""
        if self.strokes:
            pixels = lift_strokes(pixels)
        return (pixels - self.mean) / self.std


def lift_strokes(pixels: Tensor) -> Tensor:
    """Bring each picture's ground to 0 and its strongest stroke to 255: float32 (n, c, h, w) to the same."""
    ground = border_mean(pixels)
    towards_ink = torch.where(ground > 127.5, -1.0, 1.0)
    ink = ((pixels - ground) * towards_ink).relu()
    return ink * (255 / ink.amax(dim=(1, 2, 3), keepdim=True).clamp_min(FAINTEST_STROKE))


def border_mean(pixels: Tensor) -> Tensor:
    """Mean of the outermost rows and columns: (count, channels, height, width) to (count, 1, 1, 1)."""
    border = torch.ones(pixels.shape[1:], dtype=pixels.dtype, device=pixels.device)
    border[:, 1:-1, 1:-1] = 0
    # divided last: sums of whole numbers are exact, in whatever order they are added up
    return (pixels * border).sum(dim=(1, 2, 3), keepdim=True) / border.sum()


class Network(nn.Module):
    """A member: pixels in, logits out."""

    def __init__(self, normalize: Normalize, body: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.body = body

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 (count, channels, height, width) in 0..255 to logits float32 (count, classes)."""
        logits: Tensor = self.body(self.normalize(pixels))
        return logits


def linear(shape: Shape, classes: int) -> nn.Module:
    """Softmax regression on the pixels."""
    return _with_glorot_weights(nn.Sequential(nn.Flatten(), nn.Linear(_size(shape), classes)))


def dense(shape: Shape, classes: int) -> nn.Module:
    """One hidden layer of 512 units; its activation is a softmax, as the lesson had it."""
    layers = (nn.Flatten(), nn.Linear(_size(shape), 512), nn.Softmax(dim=1), nn.Linear(512, classes))
    return _with_glorot_weights(nn.Sequential(*layers))


@dataclass(frozen=True)
class Convolution:
    """A square convolution, then max pooling if asked for, ReLU, and batch normalization if the network has it.

    The lesson has ReLU before the pool: the same values, but four times as many of them to compute.
    """

    filters: int
    kernel: int
    padding: int = 0
    pool: bool = False

    def side(self, side: int) -> int:
        """Height or width of what comes out, for that of what goes in."""
        return (side + 2 * self.padding - self.kernel + 1) // (2 if self.pool else 1)


def conv_block(filters: int) -> tuple[Convolution, Convolution]:
    """The lesson's ConvBlock: two padded 3x3 convolutions, then max pooling."""
    return Convolution(filters, 3, padding=1), Convolution(filters, 3, padding=1, pool=True)


LESSON = (Convolution(32, 3), Convolution(32, 3, pool=True), Convolution(64, 3), Convolution(64, 3, pool=True))
"""The lesson's convolutions: 32-32-pool-64-64-pool."""


def cnn(shape: Shape, classes: int) -> nn.Module:
    """The lesson's convolutional network: its four convolutions, dense 512."""
    return _with_glorot_weights(_convolutional(shape, classes, LESSON, units=512, batchnorm=False))


def cnn_bn(shape: Shape, classes: int) -> nn.Module:
    """`cnn` with batch normalization after each layer."""
    return _convolutional(shape, classes, LESSON, units=512)


def cnn_bn_dropout(shape: Shape, classes: int) -> nn.Module:
    """`cnn_bn` with dropout 0.5 before the last layer: the network that the lesson averages six of."""
    return _convolutional(shape, classes, LESSON, units=512, dropout=0.5)


def cnn_slim(shape: Shape, classes: int) -> nn.Module:
    """`cnn_bn_dropout` with 256 dense units and dropout 0.4: a little over half the parameters."""
    return _convolutional(shape, classes, LESSON, units=256, dropout=0.4)


def cnn_7x7(shape: Shape, classes: int) -> nn.Module:
    """Padded 7x7 and 5x5 convolutions, each with a pool, a 3x3 one, and dense 128."""
    layers = (
        Convolution(32, 7, padding=3, pool=True),
        Convolution(48, 5, padding=2, pool=True),
        Convolution(96, 3),
    )
    return _convolutional(shape, classes, layers, units=128, dropout=0.4)


def cnn_padded(shape: Shape, classes: int) -> nn.Module:
    """Padded 3x3 convolutions 16-16-pool-48-48-pool, an unpadded one of 96, and dense 128."""
    layers = (
        Convolution(16, 3, padding=1),
        Convolution(16, 3, padding=1, pool=True),
        Convolution(48, 3, padding=1),
        Convolution(48, 3, padding=1, pool=True),
        Convolution(96, 3),
    )
    return _convolutional(shape, classes, layers, units=128, dropout=0.4)


def cnn_small(shape: Shape, classes: int) -> nn.Module:
    """A 5x5 convolution of 16 filters with a pool, 3x3 ones of 32 and, with a pool, 64, and dense 112."""
    layers = (Convolution(16, 5, pool=True), Convolution(32, 3), Convolution(64, 3, pool=True))
    return _convolutional(shape, classes, layers, units=112, dropout=0.3)


def cnn_blocks(shape: Shape, classes: int) -> nn.Module:
    """Padded blocks, as many as the images' size asks for, then a dense layer of 256 and dropout 0.4.

    Each block halves the image and doubles the filters, from 32 to 256 at most, until the shorter side is below 8:
    two blocks for 28x28 pixels, three for 32x32, four for 64x64.
    """
    side = min(shape[1:])
    layers: list[Convolution] = []
    while side >= 8:
        layers += conv_block(min(256, 32 * 2 ** (len(layers) // 2)))
        side //= 2
    return _convolutional(shape, classes, layers, units=256, dropout=0.4)


ARCHITECTURES: dict[str, Callable[[Shape, int], nn.Module]] = {
    build.__name__: build
    for build in (linear, dense, cnn, cnn_bn, cnn_bn_dropout, cnn_slim, cnn_7x7, cnn_padded, cnn_small, cnn_blocks)
}


def build_network(
    architecture: str, shape: Shape, classes: int, statistics: PixelStatistics, strokes: bool
) -> Network:
    """Build a freshly initialized network; the draws come from torch's global generator.

    Args:
        architecture: A name in `ARCHITECTURES`.
        shape: Channels, height and width of the images.
        classes: How many classes to tell apart.
        statistics: Of the training pixels, built into the network.
        strokes: Whether images are strokes on a plain ground; see `Normalize`.

    Raises:
        RecipeError: No architecture has that name, or the images are too small for it.
    """
    if architecture not in ARCHITECTURES:
        raise RecipeError(f"no architecture is called {architecture!r}; there are {', '.join(ARCHITECTURES)}")
    try:
        body = ARCHITECTURES[architecture](shape, classes)
    except RecipeError as error:
        raise RecipeError(f"{error} {architecture}; --architecture cnn_blocks takes any size") from error
    return Network(Normalize(statistics, strokes), body)


def count_parameters(network: nn.Module) -> int:
    """Trainable numbers in a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_multiply_adds(network: nn.Module, shape: Shape) -> int:
    """Multiply-adds of the convolutions and dense layers for one image."""
    total = 0

    def add(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        # every output value is a dot product with one filter
        weight = layer.get_parameter("weight")
        total += output[0].numel() * weight[0].numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    was_training = network.training
    with torch.inference_mode():
        network.eval()(torch.zeros(1, *shape))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return total


def _convolutional(
    shape: Shape,
    classes: int,
    layers: Sequence[Convolution],
    units: int,
    batchnorm: bool = True,
    dropout: float = 0.0,
) -> nn.Module:
    """Convolutions, one dense layer of `units`, and the classes."""
    channels, height, width = shape
    body: list[nn.Module] = []
    for layer in layers:
        body += [nn.Conv2d(channels, layer.filters, layer.kernel, padding=layer.padding)]
        body += [nn.MaxPool2d(2)] if layer.pool else []
        body += [nn.ReLU()]
        body += [nn.BatchNorm2d(layer.filters)] if batchnorm else []
        channels, height, width = layer.filters, layer.side(height), layer.side(width)
        if min(height, width) < 1:
            raise RecipeError(f"images of {shape[1]}x{shape[2]} pixels are too small for the network")
    body += [nn.Flatten(), nn.Linear(channels * height * width, units), nn.ReLU()]
    body += [nn.BatchNorm1d(units)] if batchnorm else []
    body += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*body, nn.Linear(units, classes))


def _with_glorot_weights(body: nn.Module) -> nn.Module:
    """Weights as the lesson's library drew them (X. Glorot, Y. Bengio, 2010), and no biases.

    Without normalization between layers it matters: a softmax of 512 units gives values of about 1/512, of which
    PyTorch's smaller weights make next to nothing.
    """
    for layer in body.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.get_parameter("bias"))
    return body


def _size(shape: Shape) -> int:
    channels, height, width = shape
    return channels * height * width
