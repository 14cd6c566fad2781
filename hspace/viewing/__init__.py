"""Vectors, images and runs as reports and pictures."""

from .balance import Balance, measure_balance, parse_labels
from .card import Neighbours, concept_card, find_neighbours
from .inspection import compare_concepts, inspect_concept, inspection_report
from .plots import balance_chart, inspection_picture, loss_plot, probe_chart
from .probing import probe_table
from .strip import label_strip, label_strips
from .summary import vector_summary

__all__ = [
    "Balance",
    "Neighbours",
    "balance_chart",
    "compare_concepts",
    "concept_card",
    "find_neighbours",
    "inspect_concept",
    "inspection_picture",
    "inspection_report",
    "label_strip",
    "label_strips",
    "loss_plot",
    "measure_balance",
    "parse_labels",
    "probe_chart",
    "probe_table",
    "vector_summary",
]
