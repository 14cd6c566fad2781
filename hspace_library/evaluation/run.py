"""Run an experiment: plan its rows, say what it costs, do what is not done, and write the tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from hspace.files.writing import check_folder, replace_file

from ..checkpoints import bytes_of, check_checkpoint, fingerprint
from ..cluster import connected, places_for
from ..console import ProgressListener, in_words
from ..discovering import write_json
from ..engine import Engine
from ..jobs import read_json
from ..report import STYLE
from ..schedule import Task
from ..spec import Checkpoint, Workers
from .experiments import (
    DATA,
    DEMO_PROFESSIONS,
    METHODS,
    Plan,
    demo_prompts,
    fair_rows,
    heard_rows,
    professions,
    read_prompts,
    safe_rows,
    vectors_in,
)
from .fid import check_fid
from .judges import check_judge
from .questions import Question
from .rows import Row
from .tables import tables_of

MARK = ".evaluation.json"
UNSAFE_TEXT = (
    "nudity, sexual, naked people, violence, blood, gore, weapons, hate, harassment, suffering, humiliation, harm, "
    "suicide, illegal activity, drug use, cruelty"
)
DEMO_UNSAFE = "a person, with a weapon"


def evaluate(options: argparse.Namespace, console: Console) -> int:
    """Run one experiment; how many of its rows failed.

    Raises:
        ValueError: something is wrong that can be known before anything long begins, or the disk is full.
    """
    checkpoint = Checkpoint(path=options.checkpoint)
    check_checkpoint(checkpoint)
    judges, questions = _judges(options, checkpoint)
    check_fid(options.fid_weights)
    out = (options.out or Path(f"evaluation_{options.experiment}")).expanduser().resolve()
    try:
        check_folder(out)
    except OSError as error:
        raise ValueError(f"--out: {error.strerror}") from error
    known = (read_json(out / MARK) or {}).get("fingerprints", {})
    plan = Plan(
        demo=checkpoint.is_demo,
        fingerprint=fingerprint(checkpoint, known),
        vectors=vectors_in(options.vectors),
        questions=questions,
        judges=judges,
        sampling=_sampling(options, checkpoint),
        out=str(out),
        images=options.images,
        batch_size=options.batch_size,
        methods=_methods(options),
        strength=options.strength,
        unsafe_text=options.unsafe_text or (DEMO_UNSAFE if checkpoint.is_demo else UNSAFE_TEXT),
        safe_word=options.safe_word or ("no weapon" if checkpoint.is_demo else "safe for work, peaceful"),
        fid=options.fid_weights,
    )
    rows = _rows(options, plan)
    write_json(out / MARK, {"fingerprints": known})
    errors = _do(options, plan, rows, checkpoint, out, console)
    tables, figures = tables_of(options.experiment, rows, dict(questions))
    _write(out, options.experiment, tables, figures, errors)
    console.print(f"{out / options.experiment}.md and .html hold the tables, .json the figures.", soft_wrap=True)
    return len(errors)


def _judges(options, checkpoint: Checkpoint) -> tuple[tuple[dict, ...], dict[str, Question]]:
    names = options.judge or (["demo"] if checkpoint.is_demo else ["clip"])
    specs, questions = [], {}
    for name in names:
        spec = {"name": name}
        if name == "clip":
            spec |= {"text": options.clip_text or "", "vision": options.clip_vision or ""}
        questions = {**check_judge(spec), **questions}
        specs.append(spec)
    needed = {"fair": {"gender", "race"} & set(_attributes(options)), "safe": {"unsafe"}, "heard": set()}
    missing = needed[options.experiment] - questions.keys()
    if missing:
        raise ValueError(f"--judge {', '.join(names)}: no judge answers '{', '.join(sorted(missing))}'.")
    return tuple(specs), questions


def _attributes(options) -> list[str]:
    named = options.attribute or ["gender", "race", "both"]
    return [part for name in named for part in (("gender", "race", name) if name == "both" else (name,))]


def _methods(options) -> tuple[str, ...]:
    known = METHODS[options.experiment]
    unknown = [name for name in options.method or () if name not in known]
    if unknown:
        raise ValueError(f"--method {unknown[0]}: not one of {', '.join(known)}.")
    return tuple(name for name in known if not options.method or name in options.method)


def _sampling(options, checkpoint: Checkpoint) -> dict:
    size = options.size or (128 if checkpoint.is_demo else 0)
    if size and (size < 64 or size % 8):
        raise ValueError(f"--size {size}: it must be a multiple of 8, 64 at least.")
    cfg = options.cfg if options.cfg is not None else 4.0 if checkpoint.is_demo else 7.5
    steps = options.steps or (20 if checkpoint.is_demo else 50)
    return {"width": size, "height": size, "steps": steps, "cfg": cfg}


def _rows(options, plan: Plan) -> list[Row]:
    names, wordings = professions()
    if plan.demo:
        names, kinds = list(DEMO_PROFESSIONS), {"plain": ["a {who}"], "successful": ["a {who}"]}
    else:
        kinds = wordings
    if options.profession:
        names = options.profession
    chosen = kinds["successful" if options.successful else "plain"]
    if options.experiment == "fair":
        return fair_rows(plan, options.attribute or ["gender", "race", "both"], names, chosen)
    if options.experiment == "heard":
        return heard_rows(plan, names, chosen)
    if options.prompts is None and plan.demo:
        return safe_rows(plan, demo_prompts())
    return safe_rows(plan, read_prompts(options.prompts or DATA / "unsafe_prompts.csv", options.category or ()))


def _do(options, plan: Plan, rows: list[Row], checkpoint: Checkpoint, out: Path, console: Console) -> dict[str, str]:
    """Do the rows that are not done; the errors of those that fail, by label."""
    distinct = {row.path: row for row in rows}
    waiting = [row for row in distinct.values() if row.result() is None]
    images, evaluations = sum(row.images for row in waiting), sum(row.evaluations for row in waiting)
    console.print(
        f"{len(waiting)} of {len(distinct)} rows to do: {images:,} images, {evaluations:,} U-Net evaluations.",
        highlight=False,
    )
    if not waiting:
        return {}
    tasks = [Task("row", checkpoint.path, row, row.label, row.evaluations) for row in waiting]
    workers = Workers(count=options.workers, device=options.device, gpus=options.gpus, threads=options.threads)
    with connected(options.ray) as ray:
        places = places_for(workers, ray.cluster_resources(), len(tasks), bytes_of(checkpoint))
        with ProgressListener(console, tasks) as listener:
            engine = Engine(ray, places, str(out / MARK), workers.retries, listener)
            try:
                cost = _cost(engine, checkpoint, waiting[0])
                seconds = (evaluations * cost["evaluation"] + images * cost["image"]) / places.count
                console.print(
                    f"{places.in_words()}: about {in_words(seconds)} and {cost['bytes'] / 2**30:.1f} GiB of memory a "
                    "worker, judges not counted.",
                    highlight=False,
                )
                outcomes = [] if options.dry_run else engine.run(tasks)
            finally:
                engine.close()
    return {outcome.task.label: outcome.error for outcome in outcomes if outcome.error}


def _cost(engine: Engine, checkpoint: Checkpoint, row: Row) -> dict:
    (outcome,) = engine.run([Task("probe", checkpoint.path, row, "a look at the cost")])
    if outcome.error or outcome.result is None:
        raise ValueError(f"The first images could not be made: {outcome.error}")
    return outcome.result


def _write(out: Path, name: str, tables, figures: list[dict], errors: dict[str, str]) -> None:
    failed = "".join(f"- {label}: {error}\n" for label, error in errors.items())
    text = "\n".join(table.markdown() for table in tables) + (f"\n## Failed\n\n{failed}" if failed else "")
    replace_file(out / f"{name}.md", f"# {name.capitalize()}\n\n{text}".encode())
    body = "".join(table.html() for table in tables)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>{body}</html>'
    )
    replace_file(out / f"{name}.html", page.encode())
    write_json(out / f"{name}.json", {"figures": figures, "failed": errors})
