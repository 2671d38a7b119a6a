"""The picture of a window for Dagster's UI: an SVG of counts, without data of a row."""

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from txn_platform.rows.figures import AMOUNT_BOUNDS, WindowFigures

_WIDTH: Final = 900
_HEIGHT: Final = 150
_PANEL: Final = 270
_GAP: Final = 45
_TOP: Final = 24
_BASE: Final = 130
# Legible on the light and on the dark theme of the UI.
_BARS: Final = "#4f7cff"
_BAD_BARS: Final = "#d9822b"
_TEXT: Final = "#808a94"
_REASONS_SHOWN: Final = 5
_LABEL_EVERY: Final = 3


def markdown_picture(figures: WindowFigures, reasons: Mapping[str, int]) -> str:
    """The picture as Markdown with a data URI; a few kilobytes.

    Args:
        figures: of the published rows.
        reasons: quarantined rows by reason, the most frequent first.
    """
    image = base64.b64encode(svg_picture(figures, reasons).encode()).decode()
    return (
        "![Published rows by minute and by amount, quarantined rows by reason]"
        f"(data:image/svg+xml;base64,{image})"
    )


def svg_picture(figures: WindowFigures, reasons: Mapping[str, int]) -> str:
    """The picture: rows by minute, rows by amount, quarantined rows by reason."""
    parts = [
        *_columns(
            0, "Published rows by minute", figures.by_minute.tolist(), list(_minute_labels())
        ),
        *(
            _columns(1, "Published rows by amount", *_amounts(figures))
            if figures.contract.amount
            else ()
        ),
        *_reasons(2, reasons),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}"'
        f' viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="10"'
        f' fill="{_TEXT}">{"".join(parts)}</svg>'
    )


def _minute_labels() -> Iterator[tuple[int, str]]:
    for minute in range(0, 60, 15):
        yield minute, f":{minute:02}"


def _amounts(figures: WindowFigures) -> tuple[list[int], list[tuple[int, str]]]:
    """The counts of the ranges between the least and the greatest amount, with labels."""
    counts = figures.by_amount.tolist()
    used = [index for index, count in enumerate(counts) if count] or [0]
    first, last = used[0], used[-1]
    labels = [
        (index - first, f"{AMOUNT_BOUNDS[index - 1]:,}" if index else "0")
        for index in range(first, last + 1)
        if index % _LABEL_EVERY == 1 or index == first == 0
    ]
    return counts[first : last + 1], labels


def _columns(
    panel: int, title: str, counts: Sequence[int], labels: Sequence[tuple[int, str]]
) -> Iterator[str]:
    """Upright bars of counts, with labels at the left edges of some of them."""
    left = panel * (_PANEL + _GAP)
    step = _PANEL / max(len(counts), 1)
    highest = max([*counts, 1])
    yield _text(left, 10, title)
    yield _text(left + _PANEL, 10, f"up to {max([*counts, 0]):,}", anchor="end")
    height = (_BASE - _TOP) / highest
    bars = "".join(
        f"M{left + index * step:.1f} {_BASE}v-{count * height:.1f}h{step * 0.85:.1f}"
        f"v{count * height:.1f}z"
        for index, count in enumerate(counts)
        if count
    )
    yield f'<path fill="{_BARS}" d="{bars}"/>'
    yield f'<path stroke="{_TEXT}" d="M{left} {_BASE}.5h{_PANEL}"/>'
    for index, label in labels:
        yield _text(left + index * step, _BASE + 14, label)


def _reasons(panel: int, reasons: Mapping[str, int]) -> Iterator[str]:
    """Level bars of the most frequent reasons."""
    left = panel * (_PANEL + _GAP)
    yield _text(left, 10, "Quarantined rows by reason")
    if not reasons:
        yield _text(left, _TOP + 12, "none")
    highest = max([*reasons.values(), 1])
    for number, (reason, rows) in enumerate(islice(reasons.items(), _REASONS_SHOWN)):
        top = _TOP + number * 24
        yield _text(left, top + 9, reason)
        yield _text(left + _PANEL, top + 9, f"{rows:,}", anchor="end")
        width = max(_PANEL * rows / highest, 1)
        yield f'<path fill="{_BAD_BARS}" d="M{left} {top + 13}h{width:.1f}v4H{left}z"/>'
    if len(reasons) > _REASONS_SHOWN:
        more = f"and {len(reasons) - _REASONS_SHOWN:,} more"
        yield _text(left + _PANEL, 10, more, anchor="end")


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    at = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y}"{at}>{html.escape(text, quote=False)}</text>'
