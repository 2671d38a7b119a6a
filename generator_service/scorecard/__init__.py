"""How realistic the generated rows are, measured on the rows and compared with publications."""

from generator_service.scorecard.card import Line, Pictures, Scorecard
from generator_service.scorecard.measures import DEFAULT_ROWS, measure
from generator_service.scorecard.page import render_html
from generator_service.scorecard.sample import FEWEST_ROWS

__all__ = ["DEFAULT_ROWS", "FEWEST_ROWS", "Line", "Pictures", "Scorecard", "measure", "render_html"]
