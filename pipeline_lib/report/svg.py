"""Charts as inline SVG: lines, bars, advantages. Colours are CSS variables, so light and dark are one drawing.

Written by hand because the page may load nothing: no plotting library, no fonts, no network. Numbers are printed
with fixed digits, so the same data gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 30


@dataclass(frozen=True, slots=True)
class Series:
    """A line: its points and its colour slot (--s1 … --s5)."""

    name: str
    points: Sequence[tuple[float, float]]
    slot: int = 1


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with an interval; None where there is none."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    slot: int = 1


def line_chart(series: Sequence[Series], *, unit: str = "", percent: bool = False, label: str = "") -> str:
    """Draw lines over training steps. Raw steps are faint; the strong line is a running mean."""
    drawn = [s for s in series if s.points]
    if not drawn:
        return '<p class="empty">No steps were logged for this chart.</p>'
    scale = 100.0 if percent else 1.0
    xs = [x for s in drawn for x, _ in s.points]
    top = max(scale * y for s in drawn for _, y in s.points)
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_high = _ceiling(top, percent)

    def x_of(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - min(y, y_high) / y_high * (HEIGHT - TOP - BOTTOM)

    parts = [_open(label or ", ".join(s.name for s in drawn)), _grid(y_high, y_of, "%" if percent else unit)]
    parts += [
        f'<text class="tick" x="{x_of(x):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{x:.0f}</text>'
        for x in _ticks(x_low, x_high)
    ]
    for s in drawn:
        raw = [(x_of(x), y_of(scale * y)) for x, y in s.points]
        smooth = [(x_of(x), y_of(scale * y)) for x, y in running_mean(s.points)]
        parts.append(f'<path class="raw s{s.slot}" d="{_path(raw)}"/>')
        parts.append(
            f'<path class="line s{s.slot}" d="{_path(smooth)}"><title>{escape(s.name)}</title></path>'
        )
        data = ";".join(f"{x:g},{scale * y:.4g}" for x, y in s.points)
        parts.append(
            f'<g class="data" data-name="{escape(s.name)}" data-slot="{s.slot}" data-points="{data}"/>'
        )
    parts.append(f'<line class="cross" x1="0" x2="0" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    frame = f'data-x0="{x_low:g}" data-x1="{x_high:g}" data-left="{LEFT}" data-right="{WIDTH - RIGHT}"'
    return f'<figure class="chart" {frame}>{"".join(parts)}</svg>{legend(drawn)}</figure>'


def bar_chart(
    bars: Sequence[Bar], *, percent: bool = True, label: str = "", high: float | None = None
) -> str:
    """Draw horizontal bars with intervals, one row each, values at the end."""
    if not bars:
        return '<p class="empty">Nothing to compare.</p>'
    scale = 100.0 if percent else 1.0
    row, left = 30, 152
    height = row * len(bars) + 8
    limit = high or _ceiling(
        max(scale * (bar.high if bar.high is not None else bar.value) for bar in bars), percent
    )

    def x_of(value: float) -> float:
        return left + min(scale * value, limit) / limit * (WIDTH - left - 62)

    parts = [_open(label, height)]
    for number, bar in enumerate(bars):
        y = 6 + number * row
        end = x_of(bar.value)
        parts.append(
            f'<text class="name" x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(bar.label)}</text>'
        )
        parts.append(
            f'<rect class="bar s{bar.slot}" x="{left}" y="{y + 3}" width="{max(end - left, 1):.1f}" height="16" rx="2"/>'
        )
        if bar.low is not None and bar.high is not None:
            parts.append(
                f'<path class="interval" d="M{x_of(bar.low):.1f} {y + 11}H{x_of(bar.high):.1f}'
                f'M{x_of(bar.low):.1f} {y + 7}v8M{x_of(bar.high):.1f} {y + 7}v8"/>'
            )
        at = max(end, x_of(bar.high) if bar.high is not None else end) + 6
        text = f"{scale * bar.value:.1f}{' %' if percent else ''}"
        parts.append(f'<text class="value" x="{at:.1f}" y="{y + 15}">{text}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{left}" y1="4" y2="{height - 4}"/>')
    return f'<figure class="chart bars">{"".join(parts)}</svg></figure>'


def advantage_chart(rewards: Sequence[float], advantages: Sequence[float], correct: Sequence[bool]) -> str:
    """Draw one group: reward above, advantage below the line, a column a sample (lesson ch.2 and ch.6)."""
    count = len(rewards)
    width, height, middle = 680, 240, 96
    step = (width - 96) / max(count, 1)
    most = max([abs(a) for a in advantages] + [1e-9])
    top = max([*rewards, 1e-9])
    mean = sum(rewards) / count
    mean_y = middle - 10 - max(mean, 0) / top * 72
    parts = [_open("Rewards and advantages of one group", height, width)]
    for number, (reward, advantage, right) in enumerate(zip(rewards, advantages, correct, strict=True)):
        x = 86 + number * step
        tall = max(reward, 0) / top * 72
        title = f"<title>sample {number + 1}: reward {reward:.2f}, advantage {advantage:+.2f}</title>"
        kind = "good" if right else "bad"
        parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{middle - 10 - tall:.1f}" width="{step * 0.7:.1f}" height="{tall:.1f}">{title}</rect>'
        )
        size = abs(advantage) / most * 52
        y = 176 - size if advantage > 0 else 176
        kind = "good" if advantage > 0 else "bad"
        parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{step * 0.7:.1f}" height="{size:.1f}">{title}</rect>'
        )
    parts.append(f'<line class="mean" x1="80" x2="{width - 8}" y1="{mean_y:.1f}" y2="{mean_y:.1f}"/>')
    parts.append(f'<line class="axis" x1="80" x2="{width - 8}" y1="{middle - 10}" y2="{middle - 10}"/>')
    parts.append(f'<line class="axis" x1="80" x2="{width - 8}" y1="176" y2="176"/>')
    parts.append(
        '<text class="tick" x="4" y="24">reward</text><text class="tick" x="4" y="180">advantage</text>'
    )
    parts.append(f'<text class="tick" x="4" y="{mean_y + 4:.1f}">mean {mean:.2f}</text>')
    return f'<figure class="chart wide">{"".join(parts)}</svg></figure>'


def running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Centred mean over about a tenth of the steps, nine at most, fewer at the ends; a short run stays as it is."""
    half = min(4, len(points) // 20)
    values = [y for _, y in points]
    return [
        (x, sum(part) / len(part))
        for i, (x, _) in enumerate(points)
        if (part := values[max(0, i - half) : i + half + 1])
    ]


def legend(series: Sequence[Series]) -> str:
    """Names beside their colours; nothing where a single line needs none."""
    if len(series) < 2:
        return ""
    items = "".join(f'<li><i class="s{s.slot}"></i>{escape(s.name)}</li>' for s in series)
    return f'<ul class="legend">{items}</ul>'


def _open(label: str, height: int = HEIGHT, width: int = WIDTH) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'


def _grid(y_high: float, y_of: object, unit: str) -> str:
    assert callable(y_of)
    parts = []
    for part in range(5):
        value = y_high * part / 4
        y = y_of(value)
        kind = "axis" if part == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}{unit}</text>'
        )
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """At most six round numbers in [low, high]."""
    step = _round_up((high - low) / 5)
    first = ceil(low / step) * step
    return [first + i * step for i in range(floor((high - first) / step) + 1)]


def _ceiling(value: float, percent: bool) -> float:
    """A round number above `value` that four grid lines divide well; 100 at most for a rate. Where all is zero, 4."""
    if value <= 0:
        return 4.0
    if percent and value > 60:
        return 100.0
    return 4 * _round_up(value / 4)


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** floor(log10(value))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= value * 0.9999)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
