"""Write the editor's files in `workflows/` and `subgraphs/`: `python -m scripts.build_workflows`.

Each function below is one workflow, each of `blueprints.py` one blueprint; `workflow_builder.py` says how a description
becomes a file.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from .blueprints import BLUEPRINTS
from .comfy_server import running_server
from .comfyui import ROOT
from .workflow_builder import Out, Workflow, load_vector

STRENGTH = 1.0
SAMPLER_BOX = (320, 500)  # with room for the live preview
SAMPLING = {"steps": 20, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}


def start_here(flow: Workflow) -> None:
    """A concept, a strength and a prompt, which are all that it shows as an app."""
    model, clip, vae = _demo_model(flow)
    first = len(flow.nodes)
    flow.at(1)
    concept = load_vector(flow, "woman")
    flow.note(
        "### 2. A concept\nAnother **concept_name** steers towards something else. When it has run, the node shows "
        "what the vector is.",
        height=120,
    )
    flow.group("2. A concept", first)
    first = len(flow.nodes)
    flow.at(2)
    names = (("Unsteered", "start_unsteered"), ("Steered", "start_steered"))
    positive, steered, savers = _plain_and_steered(
        flow,
        3,
        (model, clip, vae),
        concept,
        "a judge",
        names,
        "### 3. Start here\nPress **Run**: the same seeds, plain and steered. Change the prompt, the **strength** "
        "(below 0 steers away) or the concept, and run again. Newer editors show just these as an app: **Enter app "
        "mode** in the workflow's menu.\n\nTo find a concept of your own, on your own checkpoint, open the template "
        "**discover_and_steer**.",
        250,
    )
    flow.group("3. Draw, plain and steered", first)
    flow.as_app([(concept, "concept_name"), (steered, "strength"), (positive, "text")], savers, {"text": "prompt"})


def discover_and_steer(flow: Workflow) -> None:
    """Find "woman" on twelve professions, as many shown as men as women, then steer a thirteenth."""
    flow.at(0)
    model, clip, vae = flow.add("HSpaceLoadDemoModel")
    flow.note(
        "### 1. A model\nThe emoji demo model needs no download. To use your own, put **Load Checkpoint** in its place "
        "and set the latent in step 4 to its native size (512 for SD 1.5, 1024 for SDXL).",
        height=170,
    )
    flow.group("1. Model", 0)

    first = len(flow.nodes)
    flow.at(1)
    concept, base, avoid, empty, _, keep = flow.add(
        "HSpaceConceptPrompts",
        None,
        (340, 660),
        clip=clip,
    )
    flow.note(
        "### 2. What is to be found\nEach subject once with the concept and once without it. The vector learns what "
        "**without** leaves out; with several subjects it generalises to others. Choose a **preset** to find something "
        "else.",
        340,
        170,
    )
    flow.group("2. Pairs of prompts", first)

    first = len(flow.nodes)
    flow.at(2.15)
    vector, plot, samples, preview = flow.add(
        "HSpaceDiscoverConcept",
        None,
        (320, 892),
        model=model,
        concept=concept,
        base=base,
        avoid=avoid,
        empty=empty,
        keep=keep,
        name="woman",
        measure_range=True,
    )
    flow.note(
        "### 3. Discover\nWatch the preview: it shows what the model makes of the prompts without the concept, steered "
        "by the vector so far. The vector is saved in models/concept_vectors.",
        320,
        150,
    )
    flow.at(3.15)
    flow.add("HSpaceSaveConcept", None, (320, 104), concept=vector, filename_prefix="demo/woman", preview=preview)
    flow.add("SaveImage", "Loss plot", (320, 340), images=plot, filename_prefix="demo/loss_plot")
    (learnt,) = flow.add("VAEDecode", None, (320, 60), samples=samples, vae=vae)
    flow.add("PreviewImage", "Images sampled while learning", (320, 330), images=learnt)
    flow.group("3. Discover", first)

    first = len(flow.nodes)
    flow.at(4.15)
    (prompt,) = flow.add("CLIPTextEncode", "a prompt it has not seen", (320, 96), clip=clip, text="a judge")
    (negative,) = flow.add("CLIPTextEncode", "negative", (320, 96), clip=clip, text="")
    (latent,) = flow.add("EmptyLatentImage", None, (320, 130), width=128, height=128, batch_size=8)
    steered, _ = flow.add("HSpaceApplySteering", None, (320, 230), model=model, concept=vector, strength=STRENGTH)
    flow.note(
        "### 4. Steer\nThe same seeds twice: plain, and with the vector added. Raise **strength** for more of the "
        "concept, make it negative for less, set it to 0 for none.",
        320,
        150,
    )
    for column, (title, source, name) in enumerate(
        (("Unsteered", model, "unsteered"), ("Steered", steered, "steered"))
    ):
        flow.at(5.15 + column)
        (latents,) = flow.add(
            "KSampler",
            title,
            SAMPLER_BOX,
            model=source,
            positive=prompt,
            negative=negative,
            latent_image=latent,
            seed=1,
            **SAMPLING,
        )
        (image,) = flow.add("VAEDecode", None, (320, 60), samples=latents, vae=vae)
        flow.add("SaveImage", title, (320, 330), images=image, filename_prefix=f"demo/{name}")
    flow.group("4. Steer", first)


def _demo_model(flow: Workflow) -> tuple[Out, Out, Out]:
    flow.at(0)
    outputs = flow.add("HSpaceLoadDemoModel")
    flow.note(
        "### 1. A model\nThe emoji demo model needs no download. To use your own, put **Load Checkpoint** in its "
        "place, set the latent to its native size, and load vectors that were found on it.",
        height=170,
    )
    flow.group("1. Model", 0)
    return tuple(outputs)


def _prompts(flow: Workflow, clip: Out, prompt: str | Out, negative: str = "") -> tuple[Out, Out]:
    (positive,) = flow.add("CLIPTextEncode", "prompt", (320, 96), clip=clip, text=prompt)
    (against,) = flow.add("CLIPTextEncode", "negative", (320, 96), clip=clip, text=negative)
    return positive, against


def _sample(flow: Workflow, column: int, vae: Out, versions: tuple[tuple[str, str, Out], ...], **sampler) -> list[int]:
    """A column each for (title, file name, model): sample from the same seed, decode and save. Returns who saves."""
    savers = []
    for number, (title, name, model) in enumerate(versions):
        flow.at(column + number)
        (latents,) = flow.add("KSampler", title, SAMPLER_BOX, seed=1, model=model, **SAMPLING, **sampler)
        (image,) = flow.add("VAEDecode", None, (320, 60), samples=latents, vae=vae)
        flow.add("SaveImage", title, (320, 330), images=image, filename_prefix=f"demo/{name}")
        savers.append(len(flow.nodes))
    return savers


def _plain_and_steered(
    flow: Workflow,
    column: int,
    parts: tuple[Out, Out, Out],
    concept: Out,
    prompt: str | Out,
    names: tuple[tuple[str, str], tuple[str, str]],
    note: str,
    height: int,
    assigned: bool = False,
) -> tuple[Out, Out, list[int]]:
    """Eight images of a prompt twice, from the same seeds: the model alone, and steered.

    Args:
        column: of the first of the two; the second is right of it.
        parts: MODEL, CLIP and VAE.
        names: title and file name of each.
        note: above which Apply is, with its height.
        assigned: also show which image is given what.

    Returns:
        The encoded prompt, the steered model, and who saves.
    """
    model, clip, vae = parts
    positive, negative = _prompts(flow, clip, prompt)
    (latent,) = flow.add("EmptyLatentImage", None, (320, 130), width=128, height=128, batch_size=8)
    apply = {"model": model, "concept": concept, "strength": STRENGTH}
    steered, assignment = flow.add("HSpaceApplySteering", None, (320, 230), **apply)
    if assigned:
        flow.add("PreviewAny", "Who gets what", (320, 180), source=assignment)
    flow.note(note, 320, height)
    versions = tuple((title, file, shown) for (title, file), shown in zip(names, (model, steered), strict=True))
    savers = _sample(flow, column, vae, versions, positive=positive, negative=negative, latent_image=latent)
    return positive, steered, savers


def fair_generation(flow: Workflow) -> None:
    """Half of the judges are women."""
    model, clip, vae = _demo_model(flow)
    first = len(flow.nodes)
    flow.at(1)
    woman, man = load_vector(flow, "woman"), load_vector(flow, "man")
    (choice,) = flow.add("HSpaceChooseConcept", None, (300, 260), concept_1=woman, concept_2=man)
    flow.note(
        "### 2. Choose per image\nEach image of the batch is allocated one of the concepts, in equal numbers. "
        "**weights** such as 2,1 change the shares. Connect up to six.",
        height=150,
    )
    flow.group("2. One of two per image", first)
    first = len(flow.nodes)
    flow.at(2)
    _plain_and_steered(
        flow,
        3,
        (model, clip, vae),
        choice,
        "a judge",
        (("Unsteered", "fair_unsteered"), ("Fair", "fair")),
        "### 3. Steer\nThe same seeds twice: the model alone, and with a choice for each image.",
        110,
        assigned=True,
    )
    flow.group("3. Draw, plain and fair", first)


def safe_generation(flow: Workflow) -> None:
    """A detective without the weapon that nobody asked for."""
    model, clip, vae = _demo_model(flow)
    first = len(flow.nodes)
    flow.at(1)
    safe = load_vector(flow, "no_weapon")
    flow.note(
        "### 2. An anti-concept\nFound with pairs that unsay: in Concept Prompts, **without** and **avoid** ask for a "
        "weapon and **with_concept** does not (preset *no weapon*). It holds even where the prompt asks for one. Apply "
        "keeps it always on; the prompts in **keep** taught it to leave alone what has nothing to do with weapons.",
        height=190,
    )
    flow.group("2. What must not appear", first)
    first = len(flow.nodes)
    flow.at(2)
    _plain_and_steered(
        flow,
        3,
        (model, clip, vae),
        safe,
        "a detective",
        (("Unsteered", "safe_unsteered"), ("Safe", "safe")),
        "### 3. Steer\nThis model arms half of its detectives although the prompt does not say so.",
        100,
    )
    flow.group("3. Draw, plain and safe", first)


def responsible_prompt(flow: Workflow) -> None:
    """The prompt itself switches the vectors on."""
    model, clip, vae = _demo_model(flow)
    first = len(flow.nodes)
    flow.at(1)
    woman, man, safe = load_vector(flow, "woman"), load_vector(flow, "man"), load_vector(flow, "no_weapon")
    (choice,) = flow.add("HSpaceChooseConcept", None, (300, 260), concept_1=woman, concept_2=man)
    flow.at(2)
    (rules,) = flow.add("HSpacePromptRule", "any gender", (320, 170), concept=choice, topic="gender")
    (rules,) = flow.add("HSpacePromptRule", "no violence", (320, 170), concept=safe, topic="violence", previous=rules)
    flow.note(
        "### 2. Rules\nWhich wording switches which vectors on. Add your own words in **phrases**, one a line.",
        320,
        120,
    )
    flow.group("2. What a prompt may ask for", first)
    first = len(flow.nodes)
    flow.at(3)
    concept, matched, prompt = flow.add(
        "HSpaceConceptsFromPrompt",
        None,
        (320, 180),
        rules=rules,
        prompt="a detective, either man or woman, no weapon",
        remove_matched=True,
    )
    flow.add("PreviewAny", "What was found", (320, 120), source=matched)
    _plain_and_steered(
        flow,
        4,
        (model, clip, vae),
        concept,
        prompt,
        (("Prompt alone", "prompt_alone"), ("Prompt heard", "prompt_heard")),
        "### 3. Steer\nThe model alone ignores such requests, or does the opposite.",
        100,
    )
    flow.group("3. Draw, ignored and heard", first)


def _strip(flow: Workflow, model: Out, clip: Out, vae: Out, sweep: Out, note: str) -> Out:
    """Seven images of one noise, steered by a sweep, in a strip; takes a column and begins the next."""
    positive, negative = _prompts(flow, clip, "a scientist")
    (latent,) = flow.add("EmptyLatentImage", None, (320, 130), width=128, height=128, batch_size=7)
    (latent,) = flow.add("LatentBatchSeedBehavior", None, (320, 82), samples=latent, seed_behavior="fixed")
    steered, assignment = flow.add("HSpaceApplySteering", None, (320, 230), model=model, concept=sweep, strength=1.0)
    flow.note(note, 320, 100)
    flow.at(3)
    (latents,) = flow.add(
        "KSampler",
        None,
        SAMPLER_BOX,
        seed=1,
        **SAMPLING,
        model=steered,
        positive=positive,
        negative=negative,
        latent_image=latent,
    )
    (images,) = flow.add("VAEDecode", None, (320, 60), samples=latents, vae=vae)
    (strip,) = flow.add("HSpaceLabelStrip", None, (320, 80), images=images, assignment=assignment)
    return strip


def strength_strip(flow: Workflow) -> None:
    """One picture at seven strengths."""
    model, clip, vae = _demo_model(flow)
    first = len(flow.nodes)
    flow.at(1)
    woman = load_vector(flow, "woman")
    (sweep,) = flow.add("HSpaceSweepConcept", None, (300, 110), concept=woman, **{"from": -1.0, "to": 2.0})
    flow.note(
        "### 2. Sweep\nThe first image gets **from**, the last one **to**. Below 0 is the opposite of the concept.",
        height=120,
    )
    flow.group("2. Strength per image", first)
    first = len(flow.nodes)
    flow.at(2)
    strip = _strip(
        flow,
        model,
        clip,
        vae,
        sweep,
        "### 3. Draw\nAll images begin with the same noise, so only the strength differs.",
    )
    flow.add("SaveImage", "Strip", (640, 330), images=strip, filename_prefix="demo/strip")
    flow.group("3. Draw the strip", first)


def compose_concepts(flow: Workflow) -> None:
    """Two vectors at once, and a fair choice of one of them."""
    model, clip, vae = _demo_model(flow)
    first = len(flow.nodes)
    flow.at(1)
    woman, man, dark, light = (load_vector(flow, name) for name in ("woman", "man", "dark_skin", "light_skin"))
    flow.at(2)
    (genders,) = flow.add("HSpaceChooseConcept", "gender", (300, 260), concept_1=woman, concept_2=man)
    (tones,) = flow.add("HSpaceChooseConcept", "skin tone", (300, 260), concept_1=dark, concept_2=light)
    (both,) = flow.add("HSpaceAddConcepts", None, (300, 130), concept_a=genders, concept_b=tones, normalise=True)
    flow.note(
        "### 2. Compose\nA sum of two choices: gender and skin tone are chosen independently. Weights of **Add "
        "Concepts** set how strong each is; negative ones turn it around. With **normalise** two vectors together go "
        "no further than one, and images stay whole.",
        height=180,
    )
    flow.group("2. A sum of choices", first)
    first = len(flow.nodes)
    flow.at(3)
    _plain_and_steered(
        flow,
        4,
        (model, clip, vae),
        both,
        "a firefighter",
        (("Unsteered", "compose_unsteered"), ("Composed", "composed")),
        "### 3. Steer\nThe same seeds, plain and steered.",
        90,
        assigned=True,
    )
    flow.group("3. Draw, plain and composed", first)


def concept_card(flow: Workflow) -> None:
    """All about one vector on one page."""
    model, clip, vae = _demo_model(flow)
    first = len(flow.nodes)
    flow.at(1)
    woman = load_vector(flow, "woman")
    (sweep,) = flow.add("HSpaceSweepConcept", None, (300, 110), concept=woman, **{"from": -1.0, "to": 2.0})
    flow.note(
        "### 2. The vector\nThe page is about the vector that is loaded here. When it has run, the node shows what the "
        "vector is.",
        height=130,
    )
    flow.group("2. Seven strengths", first)
    first = len(flow.nodes)
    flow.at(2)
    strip = _strip(
        flow, model, clip, vae, sweep, "### 3. Draw\nA prompt that shows well what the vector does, at each strength."
    )
    flow.group("3. Draw the strip", first)
    first = len(flow.nodes)
    flow.at(4)
    (card,) = flow.add("HSpaceConceptCard", None, (320, 110), concept=woman, compare_with="emoji_*", strip=strip)
    flow.add("SaveImage", "Card", (460, 520), images=card, filename_prefix="demo/concept_card")
    flow.note(
        "### 4. The page\n**compare_with** says which of your vectors it is compared with: `*` for all, `sd15/*` for "
        "one folder.",
        320,
        130,
    )
    flow.group("4. One page", first)


def probe_concepts(flow: Workflow) -> None:
    """How much woman is in a mechanic, and in a teacher?"""
    model, clip, vae = _demo_model(flow)
    first = len(flow.nodes)
    flow.at(1)
    woman, man = load_vector(flow, "woman"), load_vector(flow, "man")
    (contrast,) = flow.add(
        "HSpaceAddConcepts", "woman rather than man", (300, 130), concept_a=woman, concept_b=man, weight_b=-1.0
    )
    probed, probe = flow.add("HSpaceProbe", None, (300, 230), model=model, concept_1=contrast)
    flow.note(
        "### 2. What to look for\nA contrast tells more than one vector. The probed model samples the same images as "
        "without a probe, bit for bit.",
        height=130,
    )
    flow.group("2. Probe", first)
    first = len(flow.nodes)
    flow.at(2)
    (negative,) = flow.add("CLIPTextEncode", "negative", (320, 96), clip=clip, text="")
    (latent,) = flow.add("EmptyLatentImage", None, (320, 130), width=128, height=128, batch_size=16)
    flow.note(
        "### 3. Look\nNeither prompt says who it is. The mean of the scores does: above 0 more women, below 0 more "
        "men, in units of strength.",
        320,
        130,
    )
    for column, prompt in enumerate(("a mechanic", "a teacher")):
        flow.at(3 + column)
        (positive,) = flow.add("CLIPTextEncode", prompt, (320, 96), clip=clip, text=prompt)
        (latents,) = flow.add(
            "KSampler",
            prompt,
            SAMPLER_BOX,
            model=probed,
            positive=positive,
            negative=negative,
            latent_image=latent,
            seed=1,
            **SAMPLING,
        )
        (image,) = flow.add("VAEDecode", None, (320, 60), samples=latents, vae=vae)
        flow.add("SaveImage", prompt, (320, 330), images=image, filename_prefix=f"demo/probe_{prompt[2:]}")
        flow.at(5 + column)
        chart, table, _ = flow.add("HSpaceProbeReport", prompt, (320, 130), probe=probe, latent=latents)
        flow.add("PreviewImage", f"Chart: {prompt}", (320, 330), images=chart)
        flow.add("PreviewAny", f"Scores: {prompt}", (320, 420), source=table)
    flow.group("3. Draw, and look inside", first)


NAMES = {start_here: "1_start_here"}
"""Files that are not called as their function: a digit is first wherever templates are sorted by name."""
WORKFLOWS = (
    start_here,
    discover_and_steer,
    fair_generation,
    safe_generation,
    responsible_prompt,
    strength_strip,
    compose_concepts,
    concept_card,
    probe_concepts,
)


def main() -> None:
    """Write them all, with the node definitions of a server that is started for it."""
    with running_server() as server:
        definitions = json.loads(urllib.request.urlopen(f"{server.url}/object_info").read())
    write_all(definitions, ROOT)


def write_all(definitions: dict, root: Path) -> None:
    """Write `workflows/` and `subgraphs/` below a folder.

    Args:
        definitions: of all nodes, as a server lists them.
    """
    for build in WORKFLOWS:
        flow = Workflow(definitions, root)
        build(flow)
        flow.write(NAMES.get(build, build.__name__))
    for build in BLUEPRINTS:
        build(Workflow(definitions, root))


if __name__ == "__main__":
    main()
