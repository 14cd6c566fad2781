"""The paper's experiments on a checkpoint: their rows, judges and tables, end to end on the demo model."""

import json
import re
import sys

import pytest
import torch

from helpers import ROOT, random_vector
from hspace.files import load_concept, save_concept
from hspace.viewing import measure_balance
from hspace_library.checkpoints import Loaded
from hspace_library.evaluation import questions as asked
from hspace_library.evaluation.__main__ import main
from hspace_library.evaluation.experiments import (
    METHODS,
    Plan,
    UnsafePrompt,
    demo_prompts,
    fair_rows,
    heard_rows,
    professions,
    read_prompts,
    safe_rows,
    vectors_in,
)
from hspace_library.evaluation.fid import frechet_distance
from hspace_library.evaluation.judges import ClipJudge, DemoJudge, make_judge
from hspace_library.evaluation.rows import probe, run_row
from hspace_library.evaluation.tables import tables_of
from test_balance import WIDTH, text_encoder, vision_encoder

VECTORS = ROOT / "vectors"


class Even:
    """A judge of one's own that answers every question in turn."""

    questions = asked.by_name((asked.GENDER, asked.RACE, asked.UNSAFE))

    def answers(self, question, images):
        return [place % len(self.questions[question].answers) for place in range(len(images))]


def plan(out, experiment: str, judge: str = "demo", **changes) -> Plan:
    sampling = {"width": 128, "height": 128, "steps": 2, "cfg": 4.0}
    questions = DemoJudge.questions if judge == "demo" else Even.questions
    values = {
        "demo": True,
        "fingerprint": "0" * 64,
        "vectors": vectors_in(VECTORS),
        "questions": questions,
        "judges": ({"name": judge},),
        "sampling": sampling,
        "out": str(out),
        "images": 2,
        "batch_size": 2,
        "methods": METHODS[experiment],
        "unsafe_text": "a person, with a weapon",
        "safe_word": "no weapon",
    }
    return Plan(**{**values, **changes})


@pytest.fixture(scope="module")
def demo(demo_model):
    return Loaded("demo", *demo_model)


def test_the_professions_are_the_paper_s():
    names, wordings = professions()
    assert len(set(names)) == 36
    assert {"ceo", "construction worker", "nurse"} <= set(names)
    assert [len(kind) for kind in wordings.values()] == [5, 5]
    assert all("{who}" in wording for kind in wordings.values() for wording in kind)


def test_rows_of_fairness_deal_words_and_vectors_evenly(tmp_path):
    """As many images of each wording, the same seeds for all methods, and each answer as often as the others."""
    plans = plan(tmp_path, "fair", images=20, batch_size=4)
    rows = fair_rows(plans, ["gender", "both"], ["judge"], ["a {who}", "portrait of a {who}"])
    assert [(row.column, row.method) for row in rows] == [
        (column, method) for column in ("gender", "both") for method in METHODS["fair"]
    ]
    assert len({row.path for row in rows}) == 5, "unsteered images serve both attributes"
    seeds = [sorted(seed for batch in row.batches for seed in batch.seeds) for row in rows]
    assert all(found == seeds[0] and len(set(found)) == 20 for found in seeds)
    words = [batch.prompt for batch in rows[1].batches for _ in batch.seeds]
    assert {text: words.count(text) for text in words} == {
        f"{start}a {name} judge": 5 for start in ("", "portrait of ") for name in ("man", "woman")
    }
    both = [batch.prompt for batch in rows[4].batches for _ in batch.seeds]
    assert {both.count(text) for text in both} == {1}
    assert "a woman judge, medium dark skin" in both
    assert all(batch.asked == re.sub("a (wo)?man ", "a ", batch.prompt) for batch in rows[1].batches)
    assert all(len(batch.steer.terms) == 2 for batch in rows[5].batches)


def test_lists_of_prompts(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text('prompt,categories,sd_seed\n"a, b","nudity, violence",7\nc,violence,\n')
    first = [UnsafePrompt("a, b", "nudity", 7), UnsafePrompt("a, b", "violence", 7)]
    assert read_prompts(file) == [*first, UnsafePrompt("c", "violence")]
    assert read_prompts(file, ["nudity"]) == first[:1]
    shipped = read_prompts(ROOT / "hspace_library/evaluation/data/unsafe_prompts.csv")
    assert {one.category for one in shipped} == {"nudity", "violence", "weapons"}
    for content, said in [
        ("text\na\n", "there is no column 'prompt'"),
        ("prompt,sd_seed\na,x\n", "line 2: sd_seed 'x' is no whole number"),
        ("prompt\n", "no column 'prompt'"),
    ]:
        file.write_text(content)
        with pytest.raises(ValueError, match=said):
            read_prompts(file)
    with pytest.raises(ValueError, match="cannot be read as CSV"):
        read_prompts(tmp_path / "none.csv")


def test_safety_end_to_end(demo, tmp_path):
    """Every method makes images, judged; a row that is done is known again."""
    rows = safe_rows(plan(tmp_path, "safe"), demo_prompts()[:1])
    assert [row.method for row in rows] == list(METHODS["safe"])
    told = []
    for row in rows:
        assert row.result() is None
        result = run_row(demo, row, lambda done, of: told.append((done, of)))
        assert result == row.result()
        assert len(result["answers"]["unsafe"]) == 2
        assert row.path.with_suffix(".jpg").is_file()
    assert set(told) == {(2, 2)}
    pictures = {row.path.with_suffix(".jpg").read_bytes() for row in rows}
    assert len(pictures) == len(rows), "each method has images of its own"
    (table,), figures = tables_of("safe", rows, dict(DemoJudge.questions))
    assert table.columns == ("category", *METHODS["safe"])
    assert [row[0] for row in table.rows] == ["weapons", "all", "published (SD 1.4, nudity of I2P)"]
    assert table.rows[2][1] == "17.8 %"
    assert len(figures) == len(rows)
    cost = probe(demo, rows[0], print)
    assert cost["evaluation"] >= 0
    assert cost["image"] >= 0
    assert cost["bytes"] > 1e6


def test_requests_end_to_end(demo, tmp_path):
    rows = heard_rows(plan(tmp_path, "heard"), ["judge"], ["a {who}"])
    assert list(dict.fromkeys(row.item for row in rows)) == ["of any gender", "any skin tone", "no weapon"]
    chosen = [row for row in rows if row.item == "of any gender"]
    assert [row.batches[0].prompt for row in chosen] == ["a judge, of any gender", "a judge"] * 2
    assert [bool(row.batches[0].steer) for row in chosen] == [False, False, True, True]
    (armed,) = [row for row in rows if row.item == "no weapon" and row.method == "rule applied"]
    assert [len(term) for term in armed.batches[0].steer.terms] == [1]
    run_row(demo, chosen[2], lambda *_: None)
    (table,), figures = tables_of("heard", rows, dict(DemoJudge.questions))
    assert table.rows == (("of any gender", f"deviation {figures[0]['value']:.2f}"),)


def test_figures_of_rows_in_the_paper_s_layout(tmp_path):
    """By a judge that answers in turn, so that every table is known."""
    vectors = dict.fromkeys(("white (race)", "black (race)", "Asian (race)"), VECTORS / "emoji_man.safetensors")
    plans = plan(
        tmp_path,
        "fair",
        images=4,
        judge="test_evaluations:Even",
        demo=False,
        vectors={**vectors_in(VECTORS), **vectors},
    )
    rows = fair_rows(plans, ["gender", "race"], ["doctor"], ["Photo of {who}"])
    for row in rows:
        answers = {"gender": [0, 1, 0, 1], "race": [2, 2, 2, 2]}
        row.path.parent.mkdir(exist_ok=True)
        asked_of_row = {name: answers[name] for name in row.questions}
        row.path.write_text(json.dumps({"answers": asked_of_row, "scores": [25.0, None], "images": 4}))
    (table, quality), figures = tables_of("fair", rows, dict(Even.questions))
    assert table.columns[1:4] == ("gender: unsteered", "gender: word in the prompt", "gender: vectors")
    doctor, mean, published = table.rows
    assert [cell.split()[0] for cell in doctor] == ["doctor", *["0.00"] * 3, *["1.00"] * 3]
    assert mean[1:] == doctor[1:]
    assert published == ("published (SD 1.4)", "0.68", "–", "0.17", "0.56", "–", "0.23")
    assert quality.rows[0] == ("gender: unsteered", "25.00", "–")
    assert [f["value"] for f in figures if f["what"] == "deviation" and f["item"] == "mean"] == [0.0] * 3 + [1.0] * 3
    assert "| doctor | 0.00 (" in table.markdown()


def test_fid_is_zero_of_the_same_and_grows_with_distance():

    features = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-3)
    assert frechet_distance(features + 2, features) == pytest.approx(8 * 4, rel=1e-3)


def test_clip_judges_as_concept_balance_does(tmp_path):
    judge = ClipJudge.__new__(ClipJudge)  # of small towers instead of files
    judge.clip, judge.vision, judge.width = text_encoder(), vision_encoder(tmp_path), WIDTH
    images = torch.rand(5, 40, 40, 3, generator=torch.Generator().manual_seed(0))
    labels = tuple(answer.text for answer in asked.RACE.answers)
    cosines = measure_balance(images, judge.clip, judge.vision, labels).cosines
    assert judge.answers("race", images) == cosines.argmax(1).tolist()
    assert judge.agreement(images, labels[0]) == pytest.approx((100 * cosines[:, 0]).tolist(), abs=1e-4)
    assert judge.agreement(images, "long " * 99) == [None] * 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fair", "--checkpoint", "gone.safetensors"], "checkpoint gone.safetensors: there is no such file"),
        (["fair", "--vectors", "nowhere"], "--vectors nowhere: there is no such folder"),
        (["fair", "--vectors", "EMPTY"], "'man', 'woman' needed for 'gender' and not there (found: none)"),
        (["fair", "--judge", "clip"], "--judge clip: --clip-text is not given; give CLIP-L's model.safetensors"),
        (["fair", "--judge", "nobody"], "--judge nobody: neither demo, clip, nudenet nor package.module:name"),
        (["fair", "--judge", "json:dumps"], "--judge json:dumps: cannot be made (dumps() missing 1"),
        (["safe", "--method", "magic"], "--method magic: not one of unsteered, word in the prompt"),
        (["safe", "--category", "x", "--prompts", "LIST"], "--category x: not in unsafe_prompts.csv, which has nudity"),
        (["safe", "--fid-weights", "gone.pt"], "--fid-weights gone.pt: there is no such file"),
        (["heard", "--size", "100"], "--size 100: it must be a multiple of 8"),
        (["heard", "--ray", "127.0.0.1:9"], "nothing answers"),
    ],
)
def test_errors_before_anything_long_starts(tmp_path, capsys, arguments, said):
    places = {"EMPTY": str(tmp_path), "LIST": str(ROOT / "hspace_library/evaluation/data/unsafe_prompts.csv")}
    arguments = [places.get(word, word) for word in arguments]
    defaults = {"--checkpoint": "demo", "--vectors": str(VECTORS), "--out": str(tmp_path / "out")}
    arguments += [word for pair in defaults.items() if pair[0] not in arguments for word in pair]
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_nudenet_is_optional_and_its_licence_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(ValueError, match=r"pip install \.\[nudenet\].*AGPL-3\.0"):
        make_judge({"name": "nudenet"})


def test_two_vectors_of_one_name(tmp_path):
    for file in ("a", "b"):
        save_concept(random_vector(name="woman"), tmp_path / file)
    with pytest.raises(ValueError, match=r"a\.safetensors and b\.safetensors|b\.safetensors and a\.safetensors"):
        vectors_in(tmp_path)
    assert load_concept(tmp_path / "a.safetensors").name == "woman"
