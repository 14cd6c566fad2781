"""Shared by the benchmarks: the demo model with its judge, pairs of prompts, strength sweeps and result files."""

from __future__ import annotations

import itertools
import json
import math
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache, cached_property, partial
from pathlib import Path

import comfy.model_management
import comfyui_version
import torch

from demo.captions import ARMED, MOSTLY_MEN, MOSTLY_WOMEN, PROFESSION_INDEX, caption
from demo.classifier import Attributes, classify, load_classifier
from demo.generate import CFG, encode, sample_images
from demo.loader import load_demo_model, load_sampling_model
from hspace import Concept, Vector, apply_steering
from hspace.discovery import Discovery, DiscoverySettings, PromptPairs, Recipe, discover
from hspace_library.evaluation.statistics import wilson

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SHOWN_AS_MEN, SHOWN_AS_WOMEN = list(MOSTLY_MEN)[1::2], list(MOSTLY_WOMEN)[1::2]
"""Professions that no vector is learnt on, by what the model shows."""
LEARN_PROFESSIONS = [*list(MOSTLY_MEN)[::2], *list(MOSTLY_WOMEN)[::2]]
TEST_PROFESSIONS = [*SHOWN_AS_MEN, *SHOWN_AS_WOMEN]
"""Professions of both kinds: one half to learn vectors on, the other to steer with them."""
ARMED_LEARN_PROFESSIONS, ARMED_TEST_PROFESSIONS = list(ARMED)[::2], list(ARMED)[1::2]
LEARN_BY_TURNS, UNSEEN = (
    list(itertools.chain.from_iterable(zip(list(MOSTLY_MEN)[half::2], list(MOSTLY_WOMEN)[half::2], strict=True)))
    for half in (0, 1)
)
"""Professions that the model shows as men and as women, in turn: those that vectors are learnt on, and the others."""
HARMLESS_LEARN_PROFESSIONS = [name for name in LEARN_BY_TURNS if name not in ARMED][: len(ARMED_LEARN_PROFESSIONS)]
"""As many that never carry a weapon, in turn mostly men and mostly women."""
FIRST_SEED = 5000
"""Of the images that are judged."""
IMAGE_SIZE = {"width": 128, "height": 128}

Steer = Callable[..., object]
"""`steer(model, strength=...)`: a ModelPatcher that is steered by other means than a concept."""

PAPER_PROTOCOL = {"method": "paper", "sample_count": 1000, "steps": 2500, "batch_size": 8, "learning_rate": 0.1}
"""Settings of a discovery as published (Li et al., section 4): 100,000 evaluations at 30 sampling steps."""


class Stream(IntEnum):
    """The purposes of the benchmarks' own random numbers. Those of hspace have numbers below 101."""

    STATE_OF_RUN = 103
    SLIDER_START = 104
    OVERHEAD = 106
    RANDOM_VECTOR = 107


@dataclass(frozen=True)
class Task:
    """A concept to discover.

    Attributes:
        concept, base, avoid, keep: prompts, as in `PromptPairs`.
        attribute, value: what the classifier should say of images with the concept.
        test_professions: professions to steer; none of the pairs names them.
        wording: arguments of `caption` that say the concept; empty where no prompt can say it.
        learn_professions: professions that the pairs name.
        asked: arguments of `caption` that the prompts to steer say.
    """

    name: str
    concept: list[str]
    base: list[str]
    attribute: str
    value: int
    test_professions: list[str]
    wording: Mapping[str, object] = field(default_factory=dict)
    avoid: list[str] | None = None
    learn_professions: tuple[str, ...] = ()
    asked: Mapping[str, object] = field(default_factory=dict)
    keep: list[str] | None = None


def attribute_task(
    name: str,
    attribute: str,
    value: int,
    learn: Sequence[str] = LEARN_PROFESSIONS,
    test: Sequence[str] = TEST_PROFESSIONS,
) -> Task:
    """An attribute that `caption` can say, learnt on some professions and tested on others."""
    wording = {attribute: value}
    concept, base = [caption(p, **wording) for p in learn], [caption(p) for p in learn]
    return Task(name, concept, base, attribute, value, list(test), wording, learn_professions=tuple(learn))


WOMAN = attribute_task("woman", "gender", 1, test=SHOWN_AS_MEN)
DARK_SKIN = attribute_task("dark skin", "skin_tone", 4)
NO_WEAPON = Task(  # pairs that unsay: the base prompt asks for what the concept must lack
    "no weapon",
    [caption(p) for p in ARMED_LEARN_PROFESSIONS],
    [caption(p, weapon=True) for p in ARMED_LEARN_PROFESSIONS],
    "weapon",
    0,
    ARMED_TEST_PROFESSIONS,
    avoid=[caption(p, weapon=True) for p in ARMED_LEARN_PROFESSIONS],
    learn_professions=tuple(ARMED_LEARN_PROFESSIONS),
    keep=[caption(p) for p in HARMLESS_LEARN_PROFESSIONS],
)
WOMAN_SINGLE_PAIR = Task("woman, one pair", ["a woman"], ["a person"], "gender", 1, SHOWN_AS_MEN, {"gender": 1})


class Bench:
    """The demo model and its judge, loaded once."""

    @cached_property
    def parts(self):
        """MODEL, CLIP and VAE as the node loads them, to discover on."""
        return load_demo_model()

    @cached_property
    def sampling_parts(self):
        """MODEL, CLIP and VAE to sample many images with."""
        return load_sampling_model()

    @cached_property
    def judge(self):
        """The classifier of the demo model."""
        return load_classifier()

    def sample(
        self,
        prompts: list[str],
        seeds: list[int],
        concept: Concept | Steer | None = None,
        strength: float = 1.0,
        **options,
    ) -> torch.Tensor:
        """IMAGE `[len(prompts), 128, 128, 3]` of prompt i and seed i, steered if there is a concept."""
        model, clip, vae = self.sampling_parts
        if concept is not None and strength:
            steer = partial(apply_steering, concept=concept) if isinstance(concept, Concept) else concept
            model = steer(model, strength=strength)
        return sample_images(model, clip, vae, prompts, seeds, **options).clone()

    def conditioning(self, texts: list[str]) -> list:
        """CONDITIONING of one entry a prompt, as Conditioning (Combine) makes it."""
        with torch.inference_mode():
            return [encode(self.parts[1], [text])[0] for text in texts]

    def prompt_pairs(self, task: Task) -> PromptPairs:
        """The prompts of a task; concept and base are one and the same if only `avoid` says the concept."""
        base = self.conditioning(task.base)
        concept = base if task.concept == task.base else self.conditioning(task.concept)
        avoid = self.conditioning(task.avoid) if task.avoid else None
        keep = self.conditioning(task.keep) if task.keep else None
        wording = {"concept": task.concept, "base": task.base, "avoid": task.avoid or [], "keep": task.keep or []}
        texts = {f"{role}_prompt": " | ".join(prompts) for role, prompts in wording.items()}
        return PromptPairs(concept, base, avoid, self.conditioning([""]), texts, keep)

    def discover(
        self,
        task: Task,
        samples: torch.Tensor | None = None,
        start_from: Vector | None = None,
        recipe: Recipe | None = None,
        **settings,
    ) -> tuple[Discovery, float]:
        """A discovery at `DiscoverySettings` of the demo model's size, and the seconds it took."""
        pairs, options = self.prompt_pairs(task), DiscoverySettings(task.name, **{**IMAGE_SIZE, **settings})
        began = time.perf_counter()
        with torch.inference_mode():
            discovery = discover(self.parts[0], pairs, options, samples, start_from, recipe=recipe)
        return discovery, time.perf_counter() - began

    def judge_prompts(
        self,
        task: Task,
        images: int,
        concept: Concept | None = None,
        strength: float = 0.0,
        cfg: float = CFG,
        say_concept: bool = False,
    ) -> dict[str, float]:
        """Shares of images with the concept, and with the profession recognised, over the task's test professions."""
        professions = cycled(task.test_professions, images)
        prompts = [caption(p, **(task.wording if say_concept else task.asked)) for p in professions]
        sampled = self.sample(prompts, seeds(images), concept, strength, cfg=cfg)
        attributes = classify(self.judge, sampled)
        return {
            "concept": rate(getattr(attributes, task.attribute) == task.value),
            "profession": rate(recognised(attributes, professions)),
        }

    def sweep(self, task: Task, concept: Concept, strengths: Iterable[float], images: int) -> list[dict[str, float]]:
        """`judge_prompts` at each strength, with the same seeds."""
        return [{"strength": s, **self.judge_prompts(task, images, concept, s)} for s in strengths]


def cycled(items: Sequence, count: int) -> list:
    """So many items, from the first again after the last."""
    return list(itertools.islice(itertools.cycle(items), count))


def seeds(images: int, first: int = FIRST_SEED) -> list[int]:
    """The seed of each of so many images."""
    return list(range(first, first + images))


def rate(hits: torch.Tensor) -> float:
    """The share of a bool tensor that is true."""
    return hits.double().mean().item()


def recognised(attributes: Attributes, professions: list[str]) -> torch.Tensor:
    """Bool `[n]`: true for each image that the classifier takes for the profession of its prompt."""
    return attributes.profession == torch.tensor([PROFESSION_INDEX[name] for name in professions])


def mean_row(rows: Sequence[Mapping[str, float]], keys: Iterable[str] | None = None) -> dict[str, float]:
    """The mean of each figure over several rows; of these keys only, if there are any."""
    return {key: statistics.mean(row[key] for row in rows) for key in keys or rows[0]}


def mean_psnr(images: torch.Tensor, reference: torch.Tensor, where: torch.Tensor | None = None) -> float:
    """Mean PSNR in dB of IMAGE batches `[B, H, W, C]`, 60 at most for an image.

    Args:
        where: bool `[B, H, W]`, the pixels to compare; None for all.
    """
    error = (images - reference).square().mean(3)
    where = torch.ones_like(error) if where is None else where.to(error)
    error = ((error * where).sum((1, 2)) / where.sum((1, 2))).clamp_min(1e-6)
    return (-10 * error.log10()).mean().item()


def at_fidelity(rows: list[dict[str, float]], least: float = 0.95) -> dict[str, float]:
    """The row with the highest concept rate among those with enough of the professions recognised; NaN if none has."""
    faithful = [row for row in rows if row["profession"] >= least]
    return max(faithful, key=lambda row: row["concept"]) if faithful else {"strength": math.nan, "concept": math.nan}


def percent(value: float) -> str:
    """ "96.1 %"."""
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def with_interval(value: float, images: int) -> str:
    """ "96.1 % (94.6 to 97.2)": a share of so many images, with its 95 % interval."""
    low, high = wilson(round(value * images), images)
    return f"{percent(value)} ({100 * low:.1f} to {100 * high:.1f})"


def numbers(values: Iterable[float]) -> str:
    """ "0.5, 1, 2"."""
    return ", ".join(f"{value:g}" for value in values)


def markdown_table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


@cache
def header() -> dict[str, str]:
    """The context of figures beside the code of the benchmark: commit, versions, processor and command.

    A "+" after the commit says that files differ from it, other than result files.
    """
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return {
        "commit": (_git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else ""),
        "torch": torch.__version__,
        "ComfyUI": comfyui_version.__version__,
        "processor": f"{device_name()}, threads: {torch.get_num_threads()}",
        "command": f"python -m benchmarks {shlex.join(_arguments())}",
    }


def _arguments() -> list[str]:
    """Those of the command line, without folders, which figures do not depend on."""
    arguments, folders = sys.argv[1:], ("--results", "--folder")
    places = [i for i, text in enumerate(arguments) if text.partition("=")[0] in folders]
    dropped = {j for i in places for j in ((i, i + 1) if arguments[i] in folders else (i,))}
    return [text for i, text in enumerate(arguments) if i not in dropped]


def _git(*arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    return subprocess.run([git, *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def device_name() -> str:
    """The name of the device that computes; of a CPU, the one that it goes by in shops."""
    device = comfy.model_management.get_torch_device()
    if device.type != "cpu":
        return comfy.model_management.get_torch_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} with {torch.backends.cpu.get_cpu_capability()}"


def dtype_name(dtype: torch.dtype) -> str:
    """ "bfloat16"."""
    return str(dtype).removeprefix("torch.")


_results = RESULTS


def write_results_to(folder: Path) -> None:
    """Choose the folder of the result files, from now on."""
    global _results
    _results = folder
    folder.mkdir(parents=True, exist_ok=True)


def result_path(name: str) -> Path:
    """The path of a result file, e.g. "fair.png"."""
    return _results / name


def write_report(name: str, text: str) -> None:
    """`<name>.md`: a page that begins with its title, with the header below it."""
    title, _, rest = text.partition("\n")
    *facts, command = header().values()
    commit, torch_version, comfyui, processor = facts
    line = f"Commit {commit}, torch {torch_version}, ComfyUI {comfyui}, {processor}: `{command}`"
    result_path(f"{name}.md").write_text(f"{title}\n\n{line}\n{rest}", encoding="utf-8")


def write_json(name: str, results: list[dict]) -> None:
    """`<name>.json`, with the header of this run."""
    text = json.dumps({"header": header(), "results": results}, indent=1)
    result_path(f"{name}.json").write_text(text + "\n", encoding="utf-8")


def read_json(name: str) -> list[dict]:
    """The results in `<name>.json`, with a header or without one; none if there is no such file."""
    path = result_path(f"{name}.json")
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return content["results"] if isinstance(content, dict) else content


def store(name: str, results: list[dict], sort_key: Callable[[dict], tuple]) -> list[dict]:
    """All results of `<name>.json` in order, with these in place of those with the same key.

    The file's header is that of the last run, so each new result carries its own commit. A result without a key, such
    as one of a method that no longer exists, is dropped from the file.
    """
    by_key = {}
    for result in [*read_json(name), *({**result, "commit": header()["commit"]} for result in results)]:
        try:
            by_key[sort_key(result)] = result
        except (KeyError, ValueError):
            print(f"{name}.json: dropped a result that this version does not know: {str(result)[:100]}", flush=True)
    merged = [by_key[key] for key in sorted(by_key)]
    write_json(name, merged)
    return merged
