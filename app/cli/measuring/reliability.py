"""The reliability of a probability: a table for the terminal, a plot as SVG."""

from __future__ import annotations

from rich.table import Table

from models.protocols import MatchCalibration

SIDE, EDGE = 320, 44
"""Side of the plot's square, and its margin, in pixels."""


def reliability_table(match: MatchCalibration) -> Table:
    """Mean probability, share that matches and share of the pairs, by bin."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("probability", "matches", "pairs"):
        table.add_column(name, justify="right")
    for mean, share, weight in match.reliability:
        table.add_row(f"{mean:.3f}", f"{share:.3f}", f"{weight:.3f}")
    return table


def reliability_plot(match: MatchCalibration) -> str:
    """An SVG: share of held-out pairs that match, over the probability.

    The area of a point is the share of the pairs in its bin.
    """
    low, high = EDGE, EDGE + SIDE

    def at(share: float) -> float:
        return round(share * SIDE)

    points = [
        f'<circle cx="{low + at(mean)}" cy="{high - at(share)}" r="{max(3.0, round(30 * weight**0.5, 1))}"/>'
        for mean, share, weight in match.reliability
    ]
    line = " ".join(f"{low + at(mean)},{high - at(share)}" for mean, share, _ in match.reliability)
    ticks = [
        f'<text x="{low + at(share)}" y="{high + 18}" text-anchor="middle">{share:g}</text>'
        f'<text x="{low - 8}" y="{high - at(share) + 4}" text-anchor="end">{share:g}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    title = f"calibration error {match.error:.3f} on {match.pairs} held-out pairs"
    size = SIDE + 2 * EDGE
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="{size}" height="{size}" '
            'font-family="sans-serif" font-size="12" fill="#333">',
            f'<rect width="{size}" height="{size}" fill="#fff"/>',
            f'<rect x="{low}" y="{low}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#bbb"/>',
            f'<line x1="{low}" y1="{high}" x2="{high}" y2="{low}" stroke="#bbb" stroke-dasharray="4 4"/>',
            f'<polyline points="{line}" fill="none" stroke="#2a6f97"/>',
            f'<g fill="#2a6f97" fill-opacity="0.5">{"".join(points)}</g>',
            *ticks,
            f'<text x="{size / 2}" y="24" text-anchor="middle">{title}</text>',
            f'<text x="{size / 2}" y="{size - 8}" text-anchor="middle">probability</text>',
            f'<text transform="translate(13 {size / 2}) rotate(-90)" text-anchor="middle">share that matches</text>',
            "</svg>",
            "",
        ]
    )
