"""Every architecture by name: its shapes, its size, and what all of them promise."""

from __future__ import annotations

import pytest
import torch

from training.architectures import (
    ARCHITECTURES,
    Network,
    Normalize,
    PixelStatistics,
    border_mean,
    build_network,
    count_multiply_adds,
    count_parameters,
)
from training.errors import RecipeError

MNIST = (1, 28, 28)

# Worked out by hand. Convolutions are unpadded: 28 -> 26 -> 24, pool 12 -> 10 -> 8, pool 4.
CONVOLUTION_PARAMETERS = (9 * 1 + 1) * 32 + (9 * 32 + 1) * 32 + (9 * 32 + 1) * 64 + (9 * 64 + 1) * 64
CONVOLUTION_MULTIPLY_ADDS = 9 * (26**2 * 32 + 24**2 * 32 * 32 + 10**2 * 32 * 64 + 8**2 * 64 * 64)
BATCHNORM_PARAMETERS = 2 * (32 + 32 + 64 + 64)
SIZES = {
    "linear": (7850, 7840),
    "dense": (784 * 512 + 512 + 512 * 10 + 10, 784 * 512 + 512 * 10),
    "cnn": (CONVOLUTION_PARAMETERS + 1025 * 512 + 513 * 10, CONVOLUTION_MULTIPLY_ADDS + 1034 * 512),
    "cnn_bn": (
        CONVOLUTION_PARAMETERS + BATCHNORM_PARAMETERS + 1025 * 512 + 2 * 512 + 513 * 10,
        CONVOLUTION_MULTIPLY_ADDS + 1034 * 512,
    ),
    "cnn_bn_dropout": (
        CONVOLUTION_PARAMETERS + BATCHNORM_PARAMETERS + 1025 * 512 + 2 * 512 + 513 * 10,
        CONVOLUTION_MULTIPLY_ADDS + 1034 * 512,
    ),
    "cnn_blocks": (  # padded: 28, pool 14, pool 7
        (9 * 1 + 1) * 32
        + (9 * 32 + 1) * (32 + 64)
        + (9 * 64 + 1) * 64
        + 2 * (32 + 32 + 64 + 64)
        + (64 * 49 + 1) * 256
        + 2 * 256
        + 257 * 10,
        9 * (28**2 * (32 + 32 * 32) + 14**2 * (32 * 64 + 64 * 64)) + 64 * 49 * 256 + 256 * 10,
    ),
    "cnn_padded": (  # padded 28, pool 14, pool 7 -> 5
        (9 + 1) * 16
        + (9 * 16 + 1) * (16 + 48)
        + (9 * 48 + 1) * (48 + 96)
        + 2 * (16 + 16 + 48 + 48 + 96)
        + (96 * 25 + 1) * 128
        + 2 * 128
        + 129 * 10,
        9 * (28**2 * (16 + 16 * 16) + 14**2 * (16 * 48 + 48 * 48) + 5**2 * 48 * 96) + (96 * 25 + 10) * 128,
    ),
    "cnn_7x7": (  # padded 28, pool 14, padded 14, pool 7 -> 5
        (49 + 1) * 32
        + (25 * 32 + 1) * 48
        + (9 * 48 + 1) * 96
        + 2 * (32 + 48 + 96)
        + (96 * 25 + 1) * 128
        + 2 * 128
        + 129 * 10,
        28**2 * 49 * 32 + 14**2 * 25 * 32 * 48 + 5**2 * 9 * 48 * 96 + (96 * 25 + 10) * 128,
    ),
    "cnn_small": (  # 24, pool 12, 10, 8, pool 4
        (25 + 1) * 16
        + (9 * 16 + 1) * 32
        + (9 * 32 + 1) * 64
        + 2 * (16 + 32 + 64)
        + (64 * 16 + 1) * 112
        + 2 * 112
        + 113 * 10,
        24**2 * 25 * 16 + 9 * (10**2 * 16 * 32 + 8**2 * 32 * 64) + (64 * 16 + 10) * 112,
    ),
    "cnn_slim": (
        CONVOLUTION_PARAMETERS + BATCHNORM_PARAMETERS + 1025 * 256 + 2 * 256 + 257 * 10,
        CONVOLUTION_MULTIPLY_ADDS + 1034 * 256,
    ),
}


def build(name: str, shape: tuple[int, int, int] = MNIST, classes: int = 10, *, strokes: bool = True) -> Network:
    torch.manual_seed(0)
    statistics = PixelStatistics((33.0,) * shape[0], (78.0,) * shape[0])
    return build_network(name, shape, classes, statistics, strokes).eval()


def test_every_architecture_has_its_size_written_down_here() -> None:
    assert set(SIZES) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
class TestEveryArchitecture:
    def test_size(self, name: str) -> None:
        network = build(name)
        assert (count_parameters(network), count_multiply_adds(network, MNIST)) == SIZES[name]

    @pytest.mark.parametrize(("shape", "classes"), [(MNIST, 10), ((3, 32, 32), 7), ((1, 16, 40), 2)])
    def test_logits(self, name: str, shape: tuple[int, int, int], classes: int) -> None:
        logits = build(name, shape, classes)(torch.rand(5, *shape) * 255)
        assert logits.shape == (5, classes)
        assert logits.dtype == torch.float32
        assert not torch.allclose(logits.sum(dim=1), torch.ones(5)), "probabilities instead of logits"

    def test_ground_does_not_matter(self, name: str) -> None:
        """Light strokes on black and the same picture inverted are one to a light-on-dark network."""
        images = torch.zeros(4, *MNIST)
        images[:, :, 4:-4, 4:-4] = torch.rand(4, 1, 20, 20) * 255
        network = build(name)
        assert torch.allclose(network(images), network(255 - images), atol=1e-4)
        keeping = build(name, strokes=False)
        assert not torch.allclose(keeping(images), keeping(255 - images), atol=1e-4)

    def test_gradients_reach_every_parameter(self, name: str) -> None:
        network = build(name).train()
        network(torch.rand(8, *MNIST) * 255).square().sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())

    def test_counting_leaves_the_network_as_it_was(self, name: str) -> None:
        network = build(name).train()
        count_multiply_adds(network, MNIST)
        assert network.training
        assert not any(module._forward_hooks for module in network.modules())


def test_only_the_dropout_networks_drop() -> None:
    dropping = [name for name in ARCHITECTURES if any(type(m) is torch.nn.Dropout for m in build(name).modules())]
    assert dropping == ["cnn_bn_dropout", "cnn_slim", "cnn_7x7", "cnn_padded", "cnn_small", "cnn_blocks"]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="'resnet'; there are linear, dense, cnn"):
        build("resnet")


def test_images_too_small_are_refused() -> None:
    with pytest.raises(RecipeError, match="15x28 pixels are too small"):
        build("cnn", (1, 15, 28))


@pytest.mark.parametrize(("side", "blocks"), [(8, 1), (15, 1), (28, 2), (32, 3), (64, 4), (224, 5)])
def test_depth_follows_the_size_of_the_images(side: int, blocks: int) -> None:
    network = build("cnn_blocks", (3, side, side + 5))
    assert sum(isinstance(module, torch.nn.MaxPool2d) for module in network.modules()) == blocks
    assert network(torch.zeros(2, 3, side, side + 5)).shape == (2, 10)


def test_normalize_gives_mean_zero_and_deviation_one() -> None:
    pixels = torch.randint(0, 100, (50, 3, 8, 8), dtype=torch.uint8)
    normalized = Normalize(PixelStatistics.of(pixels), strokes=False)(pixels.float())
    assert torch.allclose(normalized.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normalized.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-4)


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    assert PixelStatistics.of(torch.full((4, 1, 2, 2), 9, dtype=torch.uint8)) == PixelStatistics((9.0,), (1.0,))


def test_the_border_is_the_outermost_pixels_each_counted_once() -> None:
    image = torch.zeros(1, 1, 3, 4)
    image[0, 0, 0, 0], image[0, 0, 1, 3], image[0, 0, 1, 1] = 10, 20, 99  # corner, side, inside
    assert border_mean(image).item() == pytest.approx(30 / 10)
