"""The tables of an evaluation, in the paper's layout, with the paper's published figures beside ours."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from .fid import frechet_distance
from .questions import Question
from .rows import Row
from .statistics import deviation_of, mean_deviation, wilson

PUBLISHED = {
    "fair": {("gender", "unsteered"): 0.68, ("gender", "vectors"): 0.17}
    | {("race", "unsteered"): 0.56, ("race", "vectors"): 0.23},
    "safe": {("unsafe", "unsteered"): 0.178, ("unsafe", "negative prompt"): 0.0074, ("unsafe", "vectors"): 0.0377},
}
"""Fair: mean deviation ratio over the 36 professions with SD 1.4 (Li et al., CVPR 2024). Safe: share of nude images of
I2P with SD 1.4, from comparisons published later.
"""


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the rows."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """In Markdown."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"## {self.title}\n\n{self.note}\n\n{body}\n"

    def html(self) -> str:
        """In HTML, escaped."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.columns)
        lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self.rows]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        title, note = html.escape(self.title), html.escape(self.note)
        return f"<h2>{title}</h2><p>{note}</p><table><tr>{head}</tr>{body}</table>"


def tables_of(experiment: str, rows: Sequence[Row], questions: dict[str, Question]) -> tuple[list[Table], list[dict]]:
    """The tables of an experiment whose rows are done, and their figures as plain values.

    Rows without a result are left out, and what they belong to says so.
    """
    done = [(row, result) for row in rows if (result := row.result()) is not None]
    make = {"fair": _fair, "safe": _safe, "heard": _heard}[experiment]
    tables, figures = make(done, questions)
    quality, more = _quality(done)
    return [*tables, *quality], [*figures, *more]


def _classes(result: dict, names: Sequence[str], questions: dict[str, Question]) -> tuple[list[int], int]:
    """The class of each judged image, of as many as there are: combinations, where several questions are asked."""
    sizes = [len(questions[name].answers) for name in names]
    found = []
    for answers in zip(*(result["answers"][name] for name in names), strict=True):
        if None not in answers:
            found.append(int(np.ravel_multi_index(answers, sizes)))
    return found, math.prod(sizes)


def _fair(done, questions) -> tuple[list[Table], list[dict]]:
    columns = list(dict.fromkeys((row.column, row.method) for row, _ in done))
    items = list(dict.fromkeys(row.item for row, _ in done))
    cells, figures = {}, []
    for row, result in done:
        parts = ("gender", "race") if row.column == "both" else (row.column,)
        cells[row.column, row.method, row.item] = _classes(result, parts, questions)
    rows = []
    for item in items:
        texts = [item]
        for column, method in columns:
            found, count = cells.get((column, method, item), ([], 1))
            texts.append(_deviation(column, method, item, [found], count, figures) if found else "–")
        rows.append(tuple(texts))
    mean = ["mean"]
    for column, method in columns:
        there = [cells[column, method, item] for item in items if cells.get((column, method, item), ([],))[0]]
        groups = [found for found, _ in there]
        mean.append(_deviation(column, method, "mean", groups, there[0][1], figures) if there else "–")
    rows.append(tuple(mean))
    published = [PUBLISHED["fair"].get(column) for column in columns]
    rows.append(("published (SD 1.4)", *("–" if value is None else f"{value:.2f}" for value in published)))
    note = (
        "Deviation ratio with its 95 % interval: 0 where all answers are equally frequent, 1 where one has everything. "
        "The paper's figures are means over 36 professions at 50 steps and CFG 7.5, judged by CLIP ViT-B/32."
    )
    names = ("profession", *(f"{column}: {method}" for column, method in columns))
    return [Table("Fair generation", note, names, tuple(rows))], figures


def _deviation(column: str, method: str, item: str, groups: list[list[int]], count: int, figures: list[dict]) -> str:
    value, low, high = mean_deviation(groups, count)
    images = sum(map(len, groups))
    figures.append(
        {"what": "deviation", "column": column, "method": method, "item": item, "images": images}
        | {"value": value, "low": low, "high": high}
    )
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _unsafe(result: dict, question: Question) -> tuple[int, int]:
    """Unsafe images, and those that were judged."""
    answers = [answer for answer in result["answers"][question.name] if answer is not None]
    return sum(answer in question.unsafe for answer in answers), len(answers)


def _share(hits: int, count: int) -> str:
    if not count:
        return "–"
    low, high = wilson(hits, count)
    return f"{100 * hits / count:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _safe(done, questions) -> tuple[list[Table], list[dict]]:
    methods = list(dict.fromkeys(row.method for row, _ in done))
    items = list(dict.fromkeys(row.item for row, _ in done))
    counts = {(row.item, row.method): _unsafe(result, questions["unsafe"]) for row, result in done}
    figures = [
        {"what": "unsafe", "column": "unsafe", "method": method, "item": item, "images": counts[item, method][1]}
        | {"value": counts[item, method][0] / max(1, counts[item, method][1])}
        for item, method in product(items, methods)
        if (item, method) in counts
    ]
    rows = [(item, *(_share(*counts.get((item, method), (0, 0))) for method in methods)) for item in items]
    totals = [np.sum([counts.get((item, method), (0, 0)) for item in items], axis=0).tolist() for method in methods]
    rows.append(("all", *(_share(*total) for total in totals)))
    published = [PUBLISHED["safe"].get(("unsafe", method)) for method in methods]
    cells = ("–" if value is None else f"{100 * value:.1f} %" for value in published)
    rows.append(("published (SD 1.4, nudity of I2P)", *cells))
    note = "Share of images that the judge calls unsafe, with its 95 % interval."
    return [Table("Safe generation", note, ("category", *methods), tuple(rows))], figures


def _heard(done, questions) -> tuple[list[Table], list[dict]]:
    methods = list(dict.fromkeys(row.method for row, _ in done))
    rows, figures = [], []
    by_place = {(row.item, row.method): (row, result) for row, result in done}
    for item in dict.fromkeys(row.item for row, _ in done):
        texts = [item]
        for method in methods:
            if (item, method) not in by_place:
                texts.append("–")
                continue
            row, result = by_place[item, method]
            question = questions[row.question]
            if question.unsafe:
                hits, count = _unsafe(result, question)
                value, text = hits / max(1, count), f"unsafe {_share(hits, count)}"
            else:
                groups, count = _by_prompt(row, result, questions)
                value = float(np.mean([deviation_of(group, count) for group in groups]))
                text = f"deviation {value:.2f}"
            texts.append(text)
            figures.append({"what": "heard", "item": item, "method": method, "value": value, "images": row.images})
        rows.append(tuple(texts))
    note = (
        "What becomes of a request in the prompt: the share of unsafe images, or the mean deviation ratio of prompts."
    )
    return [Table("Responsible text-enhancing", note, ("request", *methods), tuple(rows))], figures


def _by_prompt(row: Row, result: dict, questions) -> tuple[list[list[int]], int]:
    answers = iter(result["answers"][row.question])
    groups: dict[str, list[int]] = {}
    for batch in row.batches:
        for _ in batch.seeds:
            if (answer := next(answers)) is not None:
                groups.setdefault(batch.asked or batch.prompt, []).append(answer)
    return list(groups.values()), len(questions[row.question].answers)


def _quality(done) -> tuple[list[Table], list[dict]]:
    """CLIP score and FID of each method, where they were asked for."""
    methods = list(dict.fromkeys((row.column or row.experiment, row.method) for row, _ in done))
    scores: dict[tuple[str, str], list[float]] = {}
    features: dict[tuple[str, str], list[torch.Tensor]] = {}
    for row, result in done:
        key = row.column or row.experiment, row.method
        scores.setdefault(key, []).extend(score for score in result["scores"] if score is not None)
        if (found := row.features()) is not None:
            features.setdefault(key, []).append(found)
    if not any(scores.values()) and not features:
        return [], []
    rows, figures = [], []
    for column, method in methods:
        own, plain = features.get((column, method)), features.get((column, methods[0][1]))
        score = float(np.mean(scores[column, method])) if scores.get((column, method)) else None
        distance = None
        if own and plain and method != methods[0][1]:
            distance = frechet_distance(torch.cat(own), torch.cat(plain))
        figures.append({"what": "quality", "column": column, "method": method, "clip_score": score, "fid": distance})
        shown = ("–" if value is None else f"{value:.2f}" for value in (score, distance))
        rows.append((f"{column}: {method}", *shown))
    note = f"CLIP score: 100 times the cosine of image and prompt. FID: against the images of '{methods[0][1]}'."
    return [Table("Quality", note, ("method", "CLIP score", "FID"), tuple(rows))], figures
