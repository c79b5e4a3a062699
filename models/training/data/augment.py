"""Augmentation of picture batches for the scorer and the judge.

It covers geometry, style and colour, and corruption like that of previews.
"""

import math

import torch
from torch.nn import functional


def warp(x: torch.Tensor, turn: float, scale: float, shift: float, bend: float) -> torch.Tensor:
    """Random rotation, scale, shift and smooth bends, with repeated edges.

    `turn` is the maximum rotation in radians; `scale`, `shift` and `bend` are shares of the picture. x: float32
    (B, 3, S, S) in [-1, 1].
    """
    b = len(x)
    angle = (torch.rand(b) * 2 - 1) * turn
    zoom = 1 + (torch.rand(b) * 2 - 1) * scale
    stretch = 1 + (torch.rand(b) * 2 - 1) * scale
    move = (torch.rand(b, 2) * 2 - 1) * 2 * shift
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack([cos * zoom, -sin, move[:, 0]], 1)
    theta = torch.stack([first, torch.stack([sin, cos * zoom * stretch, move[:, 1]], 1)], 1)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    bends = functional.interpolate(torch.randn(b, 2, 5, 5), size=x.shape[2:], mode="bicubic").permute(0, 2, 3, 1)
    return functional.grid_sample(x, grid + bend * bends, padding_mode="border", align_corners=False)


def restyle(x: torch.Tensor, share: float) -> torch.Tensor:
    """Changes edges and saturation in `share` of the batch.

    Edges become darker or lighter, colours less or more saturated.
    """
    size = (len(x), 1, 1, 1)
    chosen = (torch.rand(size) < share).float()
    edges = (x - functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)).abs().mean(1, keepdim=True)
    grey = x.mean(1, keepdim=True)
    vivid = 1 + chosen * (torch.rand(size) * 2 - 1) * 0.3
    return grey + (x - grey) * vivid - chosen * (torch.rand(size) * 4 - 1) * edges


def recolour(x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Recolours the things of `chosen` pictures (B,).

    So the towers must learn shapes. Backgrounds do not change: pixels that differ from the top left corner are the
    thing. Hues turn by any angle, and saturation is scaled by 0 to 1.5. One in five pictures has inverted lightness;
    three in ten are recoloured with shades between two colours.
    """
    ground = x[:, :, :1, :1]
    thing = ((x - ground).abs().amax(1, keepdim=True) * 4).clamp(max=1) * chosen.float()[:, None, None, None]
    grey = x.mean(1, keepdim=True)
    turn = torch.rand(len(x)) * 2 * math.pi
    vivid = torch.rand(len(x)) * 1.5
    # Rotation about the grey axis: cos I + (1 - cos) / 3 J + sin / sqrt(3) K. J has no effect: x - grey has mean 0.
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    spin = vivid[:, None, None] * (turn.cos()[:, None, None] * torch.eye(3) + turn.sin()[:, None, None] * cross)
    other = torch.einsum("bij,bjhw->bihw", spin, x - grey)
    light = torch.where(torch.rand(len(x), 1, 1, 1) < 0.2, -grey, grey)
    curve = light + (torch.rand(len(x), 1, 1, 1) * 2 - 1) * 0.4 * (1 - light.square())
    one, another = torch.rand(2, len(x), 3, 1, 1) * 2 - 1
    shades = one + (another - one) * (grey + 1) / 2
    painted = torch.where(torch.rand(len(x), 1, 1, 1) < 0.3, shades, (curve + other).clamp(-1, 1))
    return x + thing * (painted - x)


def soften(x: torch.Tensor, share: float) -> torch.Tensor:
    """Blurs `share` of the batch, and adds noise to as many.

    The result is similar to early previews. The blur is down- and upsampling by a factor of 2 or 4.
    """
    out = x.clone()
    for factor, part in ((2, 0.6), (4, 0.4)):
        chosen = torch.rand(len(x)) < share * part
        if chosen.any():
            low = functional.avg_pool2d(out[chosen], factor)
            blurred = functional.interpolate(low, scale_factor=factor, mode="bilinear")
            mix = torch.rand(len(blurred), 1, 1, 1) * 0.7 + 0.3
            out[chosen] = out[chosen] * (1 - mix) + blurred * mix
    noisy = (torch.rand(len(x), 1, 1, 1) < share).float() * torch.rand(len(x), 1, 1, 1) * 0.25
    coarse = functional.interpolate(torch.randn(len(x), 3, 16, 16), scale_factor=4, mode="bilinear")
    return out + noisy * (0.5 * torch.randn_like(out) + coarse)


def erase(x: torch.Tensor, share: float) -> torch.Tensor:
    """Covers a random square with the mean colour in `share` of the batch.

    The square's edge is 6 to 20 px: up to a third of a picture of 64 px.
    """
    each, size = (len(x), 1, 1, 1), x.shape[-1]
    edge = torch.randint(6, 21, each)
    corners = (torch.rand(2, *each) * (size - edge)).long()
    across = torch.arange(size)
    top, left = (torch.stack([across >= at, across < at + edge]).all(0) for at in corners)
    square = top.transpose(2, 3) & left & (torch.rand(each) < share)
    return torch.where(square, x.mean((2, 3), keepdim=True), x)


def augment(x: torch.Tensor, strong: float = 1.0) -> torch.Tensor:
    """The augmented batch: float32 (B, 3, S, S).

    Left and right are never swapped, since captions state them.
    """
    x = restyle(warp(x, 0.2 * strong, 0.1 * strong, 0.04 * strong, 0.05 * strong), 0.6 * strong)
    gain = 1 + (torch.rand(len(x), 1, 1, 1) * 2 - 1) * 0.12
    return erase(soften(x * gain, 0.35), 0.25 * strong)
