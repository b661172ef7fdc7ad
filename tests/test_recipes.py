"""Recipes: those that come with the install, overrides, and what a wrong one says."""

import contextlib
import re
from collections.abc import Iterator
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fewshot_cli.errors import FewshotError
from fewshot_cli.meta_recipes import MetaRecipe, load_any_recipe, load_meta_recipe, parse_meta_recipe, recipe_names
from fewshot_cli.methods import HEADS, META_METHODS, MOVES
from fewshot_cli.methods.base import MoveThenHead
from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.methods.lda import LDA
from fewshot_cli.methods.lora import LoRA
from fewshot_cli.methods.ridge import Ridge
from fewshot_cli.recipe_files import RECIPES, yaml_value
from fewshot_cli.recipes import DEFAULT_BACKBONE, METHOD_NAMES, Recipe, load_recipe, parse_recipe

FILES = sorted(RECIPES.glob("*.yaml"), key=lambda path: path.stem)
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def mistakes(*changes: str, recipe: str = "ridge") -> str:
    with pytest.raises(FewshotError) as caught:
        load_recipe(recipe, changes)
    return caught.value.problem


@pytest.fixture
def file(tmp_path):
    def written(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


@pytest.mark.slow
def test_there_are_recipes_and_every_method_has_one():
    assert len(FILES) >= 10
    assert recipe_names() == [path.stem for path in FILES]
    for kind, methods in ((Recipe, {**HEADS, **MOVES}), (MetaRecipe, META_METHODS)):
        assert {load_any_recipe(name).method.name for name in recipe_names(kind)} == set(methods)
    assert sorted(recipe_names(Recipe) + recipe_names(MetaRecipe)) == recipe_names()


@every_file
def test_every_recipe_loads(path):
    recipe = load_any_recipe(path.stem)
    assert recipe == load_any_recipe(str(path))
    assert recipe.backbone == {"s": "vit_small_patch16_224.dino", "b": "vit_base_patch16_224.dino"}.get(
        path.stem.partition("-vit")[2], DEFAULT_BACKBONE
    )


@every_file
def test_every_recipe_says_how_to_run_it(path):
    head = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))
    assert head, "a recipe begins with a comment"
    commands = re.findall(r"^#   (fewshot .*)$", head[0], re.MULTILINE)
    assert len(commands) == 1
    adapts = path.stem in recipe_names(Recipe)
    start = r"fewshot adapt .* --recipe" if adapts else "fewshot meta-tune"
    assert re.match(rf"{start} {re.escape(path.stem)}( |$)", commands[0])


def test_a_recipe_of_the_other_kind_says_what_to_do():
    with pytest.raises(FewshotError, match="to meta-tune by") as caught:
        load_recipe("smat")
    assert "fewshot meta-tune smat" in caught.value.hint
    with pytest.raises(FewshotError, match="adapt to one task by") as caught:
        load_meta_recipe("ridge")
    assert "smat" in caught.value.hint and "ridge" in caught.value.hint


def test_mistakes_in_meta_tuning_have_the_paths_that_set_takes():
    changes = [
        "training.protocol.wey=3",
        "training.sampler.name=exp",
        "method.sparsity=1",
        "training.views.scale=[1, 0.2]",
    ]
    with pytest.raises(FewshotError) as caught:
        load_meta_recipe("smat", changes)
    for part in ("training.protocol.wey: there is no such", "training.sampler.name: 'exp'", "method.sparsity: "):
        assert part in caught.value.problem
    assert "training.views.scale: is given from low to high" in caught.value.problem


def test_changes_are_read_as_yaml_and_numbers_as_people_write_them():
    changes = ["method.tuning.optim.lr=1e-3", "method.tuning.optim.steps=7", "method.parts=[q, k, v]"]
    method = load_recipe("lora", [*changes, "method.scaling=alpha/sqrt(rank)"]).method
    assert isinstance(method, LoRA)
    assert method.tuning.optim.lr == 0.001
    assert method.tuning.optim.steps == 7
    assert method.tuning.optim.batch == 32  # what the file says and no change names stays
    assert method.parts == ("q", "k", "v")
    assert method.factor == pytest.approx(8 / 8**0.5)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "1.0e-3", "0.001", "+1e-3", "10e-4"])
def test_every_spelling_of_a_number_is_one(text, file):
    assert load_recipe("finetune", [f"method.tuning.optim.lr={text}"]).method.tuning.optim.lr == 0.001
    path = file(f"method: {{name: ridge, strength: {text}}}")
    assert load_recipe(path).method == Ridge(strength=0.001)


def test_a_change_can_make_sections_and_null_is_a_value():
    recipe = load_recipe("saft", ["method.tuning.optim.batch=null", "backbone=resnet18", "method.tuning.augment=0"])
    assert recipe.backbone == "resnet18"
    assert recipe.method.tuning.optim.batch is None
    assert recipe.method.tuning.augment == 0


def test_a_change_can_make_sections_that_the_file_has_not(file):
    path = file("backbone: resnet18\n")
    recipe = load_recipe(path, ["method.name=finetune", "method.tuning.optim.steps=3"])
    assert isinstance(recipe.method, Finetune)
    assert recipe.method.tuning.optim.steps == 3


def test_options_win_over_changes_and_none_is_not_given():
    recipe = load_recipe("ridge", ["backbone=resnet18", "image_size=96"], backbone="resnet34", image_size=None)
    assert (recipe.backbone, recipe.image_size) == ("resnet34", 96)


def test_every_mistake_is_listed_at_once_with_its_path():
    problem = mistakes(
        "method.rnak=3",
        "method.rank=0",
        "method.tuning.optim.lr=fast",
        "method.tuning.head=linear",
        "method.targets='['",
        "image_size=3",
        "bakbone=resnet18",
        recipe="lora",
    )
    lines = problem.splitlines()
    assert "7 mistakes" in lines[0]
    paths = {line.split(":")[0].strip() for line in lines[1:]}
    expected = ("rnak", "rank", "tuning.optim.lr", "tuning.head", "targets")
    assert paths == {f"method.{path}" for path in expected} | {"image_size", "bakbone"}
    assert "method.rnak: there is no such setting" in problem
    assert "given: 'fast'" in problem


@pytest.mark.parametrize(
    "change", ["method.tuning.optim.lr=.inf", "method.tuning.optim.steps=2.5", "method.density=1.5"]
)
def test_values_out_of_range_are_mistakes(change):
    assert change.split("=")[0] in mistakes(change, recipe="saft")


def test_a_recipe_never_changes_once_read():
    recipe = load_recipe("ridge")
    with pytest.raises(ValueError, match="frozen"):
        recipe.backbone = "resnet18"


@pytest.mark.parametrize("change", ["steps", "=3", "method.=3", ".name=3", "method..name=3"])
def test_a_change_that_is_none_is_an_error_with_an_example(change):
    with pytest.raises(FewshotError, match="not of the form") as caught:
        load_recipe("ridge", [change])
    assert "--set method." in caught.value.hint


def test_a_change_below_a_value_is_an_error():
    with pytest.raises(FewshotError, match="'strength' is a value"):
        load_recipe("ridge", ["method.strength.much=3"])


@pytest.mark.parametrize("text", ["", "# nothing\n", "backbone: resnet18\n", "method: {strength: 2}\n"])
def test_a_missing_method_is_named_with_what_there_is(text, file):
    with pytest.raises(FewshotError) as caught:
        load_recipe(file(text))
    assert "method.name: is missing" in caught.value.problem
    assert all(name in caught.value.problem for name in METHOD_NAMES)


def test_a_method_without_its_section_is_shown_how_to_write_it(file):
    with pytest.raises(FewshotError, match=r"method: .*\{name: ridge\}"):
        load_recipe(file("method: ridge\n"))


def test_a_misspelt_method_is_answered_with_the_nearest():
    assert "did you mean ridge?" in mistakes("method.name=rigde")
    assert "there are protonet, ridge" in mistakes("method.name=xyz")
    assert "method.name: 3 is not a method" in mistakes("method.name=3")


def test_an_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(FewshotError, match="no recipe called 'fintune'") as caught:
        load_recipe("fintune")
    assert "finetune" in caught.value.hint
    with pytest.raises(FewshotError) as caught:
        load_recipe("qqq")
    assert all(name in caught.value.hint for name in recipe_names())


def test_a_recipe_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FewshotError, match=r"no recipe file .*gone\.yaml"):
        load_recipe(str(tmp_path / "gone.yaml"))


@pytest.mark.parametrize(("text", "says"), [("- a\n- b\n", "list"), ("just words\n", "str"), ("3\n", "int")])
def test_yaml_that_is_no_mapping_is_not_a_recipe(text, says, file):
    with pytest.raises(FewshotError, match=f"holds a {says}, not a recipe"):
        load_recipe(file(text))


def test_what_is_no_yaml_is_an_error_that_says_where(file, tmp_path):
    with pytest.raises(FewshotError, match=r"not a YAML file.*line 2"):
        load_recipe(file("method: {name: ridge\nbackbone: x\n"))
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(FewshotError, match="not a YAML file"):
        load_recipe(str(tmp_path / "picture.yaml"))


def test_a_recipe_survives_being_written_and_read():
    for name in recipe_names(Recipe):
        recipe = load_recipe(name)
        assert parse_recipe(recipe.model_dump(mode="json"), name) == recipe
    for name in recipe_names(MetaRecipe):
        meta = load_meta_recipe(name)
        assert parse_meta_recipe(meta.model_dump(mode="json"), name) == meta


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_yaml_1_2_reads_the_installed_recipes_as_yaml_1_1_did(path):
    """But for numbers such as 1e-3, which are texts in YAML 1.1."""

    def numbers(value):
        if isinstance(value, dict):
            return {key: numbers(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [numbers(inner) for inner in value]
        return (
            float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value
        )

    text = path.read_text(encoding="utf-8")
    assert yaml_value(text) == numbers(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method: {name: ridge}\nmethod: {name: lda}\n", "duplicate key"),
        ("method: {name: ridge, strength: 1, strength: 2}\n", "duplicate key"),
        ("method: 0b_\n", "not a YAML file"),
        ("method: &all [*all]\n", "not a YAML file"),
        ("method: " + "[" * 900 + "\n", "nested too deeply"),
        ("method: [\n", "not a YAML file"),
        ("method: !!python/object:os.system x\n", "not a YAML file"),
        ("a: 1\n---\nb: 2\n", "another document"),
        (f"image_size: {'9' * 5000}\n", "not a YAML file"),
        ("- ridge\n", "holds a list"),
        ("when: 2024-13-45\nmethod: {name: ridge}\n", "when: there is no such setting"),
        ("backbone: 7\nmethod: {name: ridge}\n", "backbone"),
        ("1: 2\nmethod: {name: ridge}\n", "1"),
        ("? [a]\n: 2\n", "Keys should be strings"),
    ],
)
def test_what_yaml_cannot_be_is_a_sentence(text, says, file):
    with pytest.raises(FewshotError) as caught:
        load_recipe(file(text))
    assert says in caught.value.problem and caught.value.hint


def test_dates_are_texts():
    assert load_recipe("ridge", ["backbone=2024-13-45"]).backbone == "2024-13-45"
    assert load_recipe("ridge", ["backbone=2024-12-01"]).backbone == "2024-12-01"
    assert yaml_value("when: 2024-12-01") == {"when": "2024-12-01"}


WORDS = [
    *("", " ", "[", "{a: 1", "0b_", "0x_", "2024-13-45", "12:30:99", "&a [*a]", "!!int x", "!!binary x", "1e999", "~"),
    *(".nan", "-.inf", "yes", "1_0", "9" * 5000, "'", '"', "- a", "? b", "a: b: c", "\x00", "\ud800", "*x", "%YAML 9"),
]
ODD = st.one_of(
    st.text(max_size=12),
    st.sampled_from(WORDS),
    st.integers().map(str),
    st.floats().map(str),
)


def settings_of(kind: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield before + name
        inner = [part for part in (field.annotation, *get_args(field.annotation)) if isinstance(part, type)]
        for part in inner:
            if issubclass(part, BaseModel):
                yield from settings_of(part, f"{before}{name}.")


PLACES = sorted(
    {("ridge", name) for name in settings_of(Recipe)}
    | {("smat", name) for name in settings_of(MetaRecipe)}
    | {(path.stem, f"method.{name}") for path in FILES for name in settings_of(type(load_any_recipe(path.stem).method))}
)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "place"), PLACES, ids=lambda place: place)
@given(text=ODD)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_any_text_for_any_setting_is_taken_or_refused_in_a_sentence(recipe, place, text):
    with contextlib.suppress(FewshotError):
        load_any_recipe(recipe, [f"{place}={text}"])


@pytest.mark.slow
@given(text=st.text(alphabet=st.sampled_from("abn: -[]{}!&*#?|>'\"%@`\n\t,01._~<\\"), max_size=60))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text_is_yaml_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        yaml_value(text)


@pytest.mark.parametrize("name", ["x" * 5000, "a\x00b", "", " ", ".", "/", "nul/" * 500, "\ud800"])
def test_any_name_of_a_recipe_is_a_sentence(name):
    with pytest.raises(FewshotError):
        load_recipe(name)


def test_mistakes_call_settings_as_they_were_given():
    """By their option where one set them, and without what pydantic tried."""
    with pytest.raises(FewshotError) as caught:
        load_recipe("ridge", image_size=3, density=2.0, bank="some.bank")
    assert "  --image-size: should be greater" in caught.value.problem
    assert "  --density: should be less" in caught.value.problem
    with pytest.raises(FewshotError, match=r"\n  image_size: should be greater"):
        load_recipe("ridge", ["image_size=3"])
    with pytest.raises(FewshotError) as caught:
        load_meta_recipe("smat", ["training.protocol={name: fixed, way: 1}"])
    assert "training.protocol.way: should be greater than or equal to 2, or 'all' (given: 1)" in caught.value.problem


def test_a_head_of_ones_own_goes_with_any_move(file):
    recipe = load_recipe(file("method: {name: lora}\nhead: {name: lda, ridge: 2}\n"))
    assert isinstance(recipe.learner, MoveThenHead)
    assert (recipe.method_name, recipe.head_name) == ("lora", "lda")
    assert recipe.learner.then == LDA(ridge=2)
    assert parse_recipe(recipe.model_dump(mode="json"), "again") == recipe


def test_a_head_alone_leaves_the_backbone_and_may_be_called_a_method(file):
    alone = load_recipe(file("head: {name: ridge, strength: 2}\n"))
    assert alone.learner == load_recipe("ridge", ["method.strength=2"]).learner == Ridge(strength=2)
    assert (alone.method_name, alone.head_name) == ("ridge", None)


def test_two_heads_are_one_too_many():
    assert "head: ridge is a head already, and lda is another" in mistakes("head.name=lda")


def test_mistakes_in_a_head_have_the_paths_that_set_takes(file):
    assert "head.strenght: there is no such setting" in mistakes("head.name=ridge", "head.strenght=2", recipe="lora")
    assert "head.name: 'lora' is none of" in mistakes("head.name=lora", recipe="lora")
    with pytest.raises(FewshotError, match=r"head: .*\{name: ridge\}"):
        load_recipe(file("method: {name: lora}\nhead: ridge\n"))


@pytest.mark.parametrize("refit", [True, False])
def test_recipes_that_say_refit_are_still_read(refit, file):
    recipe = load_recipe(file(f"method: {{name: finetune, targets: bias$, tuning: {{refit: {refit}}}}}\n".lower()))
    assert recipe.head == (Ridge() if refit else None)
    assert recipe.method == Finetune(targets="bias$")
    assert load_recipe("finetune", ["method.tuning.refit=true"]).head == Ridge()
