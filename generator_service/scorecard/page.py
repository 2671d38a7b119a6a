"""A scorecard as an HTML page that loads nothing: a table of the measures and three pictures."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from generator_service.html_style import STYLE
from generator_service.scorecard.card import WEEKDAYS, moment_text
from generator_service.simulator import VERSION

if TYPE_CHECKING:
    from generator_service.scorecard.card import Line, Pictures, Scorecard


def render_html(card: Scorecard) -> str:
    """Return the scorecard as one HTML page."""
    rows = "\n".join(_table_row(line) for line in card.lines)
    settings = ", ".join(f"{name} {value}" for name, value in card.configuration.items())
    start, end = moment_text(card.window.start), moment_text(card.window.end)
    status = "Every line is in its range." if card.in_range else "Some lines are out of range."
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Scorecard of the synthetic transactions</title>
<style>{STYLE}</style>
<h1>Scorecard</h1>
<p>{card.rows:,} transactions from {start} (window to {end}).
{status}</p>
<p><small>Generator {html.escape(VERSION)}, configuration
{html.escape(card.configuration_hash)}: {html.escape(settings)}.</small></p>
<table>
<thead><tr><th>Property</th><th>Value</th><th>Target</th><th></th><th>Source</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
<figure><figcaption>Purchases by amount (logarithmic)</figcaption>{_bars(card.pictures)}</figure>
<figure><figcaption>Rows by hour of the week (UTC)</figcaption>{_heat(card.pictures)}</figure>
<figure><figcaption>Purchases by merchant's rank (both logarithmic)</figcaption>
{_ranks(card.pictures)}</figure>
</html>
"""


def _table_row(line: Line) -> str:
    status, style = ("in range", "good") if line.in_range else ("out of range", "bad")
    value = "too few rows" if line.value is None else f"{line.value:.4g}"
    note = f"<br><small>{html.escape(line.note)}</small>" if line.note else ""
    return (
        f'<tr><td>{html.escape(line.name)}{note}</td><td class="number">{value}</td>'
        f'<td class="number">{_target(line)}</td><td class="{style}">{status}</td>'
        f"<td><small>{html.escape(line.source)}</small></td></tr>"
    )


def _target(line: Line) -> str:
    if line.low is None:
        return f"up to {line.high:.4g}"
    if line.high is None:
        return f"at least {line.low:.4g}"
    return f"{line.low:.4g}" if line.low == line.high else f"{line.low:.4g} to {line.high:.4g}"


def _bars(pictures: Pictures) -> str:
    highest = max(count for _, count in pictures.amounts)
    width = 320 / len(pictures.amounts)
    bars = "".join(
        f'<rect x="{at * width:.1f}" y="{120 - 110 * count / highest:.1f}" '
        f'width="{width - 0.6:.1f}" height="{110 * count / highest:.1f}" fill="var(--mark)">'
        f"<title>from {edge:g}: {count:,}</title></rect>"
        for at, (edge, count) in enumerate(pictures.amounts)
    )
    labels = "".join(
        f'<text x="{at * width:.1f}" y="133">{edge:g}</text>'
        for at, (edge, _) in enumerate(pictures.amounts)
        if abs(math.log10(edge) - round(math.log10(edge))) < 0.01
    )
    return f'<svg width="330" height="140" role="img">{bars}{labels}</svg>'


def _heat(pictures: Pictures) -> str:
    highest = max(*pictures.hours, 1)
    cells = "".join(
        f'<rect x="{30 + 12 * (hour % 24)}" y="{16 * (hour // 24)}" width="11" height="15" '
        f'fill="var(--mark)" fill-opacity="{count / highest:.3f}">'
        f"<title>{WEEKDAYS[hour // 24]} {hour % 24} h: {count:,}</title></rect>"
        for hour, count in enumerate(pictures.hours)
    )
    days = "".join(
        f'<text x="0" y="{16 * day + 11}">{name[:3]}</text>' for day, name in enumerate(WEEKDAYS)
    )
    hours = "".join(f'<text x="{30 + 12 * hour}" y="126">{hour}</text>' for hour in range(0, 24, 6))
    return f'<svg width="330" height="140" role="img">{cells}{days}{hours}</svg>'


def _ranks(pictures: Pictures) -> str:
    across = max(math.log10(pictures.ranks[-1][0]), 1e-9)
    top = max(math.log10(max(count for _, count in pictures.ranks)), 1e-9)
    points = " ".join(
        f"{300 * math.log10(rank) / across + 10:.1f},{120 - 110 * math.log10(count) / top:.1f}"
        for rank, count in pictures.ranks
        if count > 0
    )
    labels = "".join(
        f'<text x="{300 * power / across + 8:.1f}" y="133">{10**power}</text>'
        for power in range(int(across) + 1)
    )
    return (
        f'<svg width="330" height="140" role="img"><polyline points="{points}" fill="none" '
        f'stroke="var(--mark)" stroke-width="2"/>{labels}</svg>'
    )
