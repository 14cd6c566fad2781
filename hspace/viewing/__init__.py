"""Vectors, images and runs as reports and pictures."""

from .balance import Balance, measure_balance, parse_labels
from .inspection import compare_concepts, inspect_concept, inspection_report
from .plots import balance_chart, inspection_picture, loss_plot
from .strip import label_strip, label_strips

__all__ = [
    "Balance",
    "balance_chart",
    "compare_concepts",
    "inspect_concept",
    "inspection_picture",
    "inspection_report",
    "label_strip",
    "label_strips",
    "loss_plot",
    "measure_balance",
    "parse_labels",
]
