"""Augmentation of picture batches for the scorer and the judge: geometry, and the corruption that previews show."""

import math

import torch
from torch.nn import functional


def warp(x: torch.Tensor, turn: float, scale: float, shift: float, bend: float) -> torch.Tensor:
    """Random rotation (up to `turn` radians), scale, shift and smooth bends (shares of the picture), edges repeated.

    x: float32 (B, 3, S, S) in [-1, 1].
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
    """Draws `share` of the batch in another manner: edges inked or lit, colours nearer to grey or farther from it."""
    size = (len(x), 1, 1, 1)
    chosen = (torch.rand(size) < share).float()
    edges = (x - functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)).abs().mean(1, keepdim=True)
    grey = x.mean(1, keepdim=True)
    vivid = 1 + chosen * (torch.rand(size) * 2 - 1) * 0.3
    return grey + (x - grey) * vivid - chosen * (torch.rand(size) * 4 - 1) * edges


def recolour(x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Gives the things of `chosen` pictures (B,) other colours, so that shapes must tell: backgrounds stay.

    What differs from the corner is the thing; hues turn by any angle, saturation goes from none to half as much again,
    one in five is lit the other way round; three in ten are drawn in shades between two colours.
    """
    ground = x[:, :, :1, :1]
    thing = ((x - ground).abs().amax(1, keepdim=True) * 4).clamp(max=1) * chosen.float()[:, None, None, None]
    grey = x.mean(1, keepdim=True)
    turn = torch.rand(len(x)) * 2 * math.pi
    vivid = torch.rand(len(x)) * 1.5
    # A turn about the grey axis: cos I + (1 - cos) / 3 J + sin / sqrt(3) K, of which J drops out for colours less grey.
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
    """Blurs `share` of the batch (down and up by 2 or 4) and adds noise to as many, as early previews look."""
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
    """Covers a random square of up to a third of the edge with the mean colour in `share` of the batch (in place)."""
    for i in torch.nonzero(torch.rand(len(x)) < share).flatten().tolist():
        edge = int(torch.randint(6, 21, ()))
        top, left = (int(v) for v in torch.randint(0, x.shape[-1] - edge, (2,)))
        x[i, :, top : top + edge, left : left + edge] = x[i].mean((1, 2))[:, None, None]
    return x


def augment(x: torch.Tensor, strong: float = 1.0) -> torch.Tensor:
    """The training view of a batch: float32 (B, 3, S, S); sides are never swapped, since captions name them."""
    x = restyle(warp(x, 0.2 * strong, 0.1 * strong, 0.04 * strong, 0.05 * strong), 0.6 * strong)
    gain = 1 + (torch.rand(len(x), 1, 1, 1) * 2 - 1) * 0.12
    return erase(soften(x * gain, 0.35), 0.25 * strong)
