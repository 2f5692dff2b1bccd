"""The registry: a file in the folder is a component, and so is a dotted name."""

import subprocess
import sys
from pathlib import Path

import pytest

import search_spaces
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.registry import call, load, names

OWN = '''
from search_spaces import Choice, SearchSpace
def build(*, widths=(1, 2), depth):
    """Somebody's own."""
    return SearchSpace("own", "none", (Choice("width", tuple(widths)),), (), {"depth": depth})
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of somebody's own, importable while the test runs."""
    folder = tmp_path / "somebodys_own"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "space.py").write_text(OWN)
    (folder / "empty.py").write_text("")
    (folder / "broken.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return "somebodys_own"


def test_the_folder_is_the_registry() -> None:
    assert "matformer" in names("search_spaces.families")
    assert not [name for name in names("search_spaces.families") if name.startswith("_")]
    assert {"matformer", "matformer_vit_b16", "matformer_vit_l16"} <= set(search_spaces.names())
    assert names("predictors.devices")
    assert not {"devices", "accuracy"} & set(names("predictors.latency"))


def test_variants_take_options_over_their_own() -> None:
    space = search_spaces.get("matformer_vit_b16", num_classes=10)
    assert (space.name, space.family, space.options["num_classes"]) == ("matformer_vit_b16", "matformer", 10)
    assert space.options["embed_dim"] == (768,)


@pytest.mark.parametrize("wrong", ["matfromer", "matformer_vit_b61", "_space", "", "Matformer"])
def test_an_unknown_space_is_not_found(wrong: str) -> None:
    with pytest.raises(NotFoundError, match=f"no search space '{wrong}'") as caught:
        search_spaces.get(wrong)
    assert "matformer" in caught.value.hint


def test_a_dotted_name_is_a_module_of_ones_own(own: str) -> None:
    space = search_spaces.get(f"{own}.space", depth=3, widths=[1, 2, 3])
    assert (space.size, space.options["depth"]) == (3, 3)


def test_what_is_wrong_with_a_module_of_ones_own_is_said(own: str) -> None:
    with pytest.raises(NotFoundError, match="not_installed_anywhere"):
        search_spaces.get(f"{own}.broken")
    with pytest.raises(NotFoundError, match=f"{own}.missing"):
        search_spaces.get(f"{own}.missing")
    with pytest.raises(UsageError, match="no function 'build'"):
        search_spaces.get(f"{own}.empty")
    with pytest.raises(UsageError, match="no option 'width'") as unknown:
        search_spaces.get(f"{own}.space", width=3, depth=1)
    assert "widths, depth" in unknown.value.hint
    with pytest.raises(UsageError, match="needs the option 'depth'"):
        search_spaces.get(f"{own}.space")


def test_arguments_of_the_caller_are_not_options(own: str, tmp_path: Path) -> None:
    (tmp_path / own / "searcher.py").write_text("def build(problem, *, name='x'): return problem, name")
    assert call("nas.searchers", f"{own}.searcher", 1, name="y") == (1, "y")
    with pytest.raises(UsageError, match="no option 'problem'"):
        call("nas.searchers", f"{own}.searcher", 1, problem=2)


def test_a_component_is_loaded_by_name() -> None:
    assert load("search_spaces.families", "matformer").FAMILY == "matformer"
    with pytest.raises(NotFoundError, match="no 'rooflines' in predictors") as caught:
        load("predictors.latency", "rooflines")
    assert "roofline" in caught.value.hint


def test_spaces_need_no_torch() -> None:
    code = """
import sys, search_spaces
sizes = [search_spaces.get(name).size for name in search_spaces.names()]
assert not {"torch", "optuna", "sqlalchemy", "pandas", "sklearn", "scipy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_families_with_a_space_of_one_name_are_an_error_that_names_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    families = {name: load("search_spaces.families", name) for name in ("matformer", "vit_resnas")}
    variant = "matformer_vit_b16"
    monkeypatch.setattr(families["vit_resnas"], "VARIANTS", {variant: {}})
    with pytest.raises(UsageError, match=f"'{variant}': 'matformer' and 'vit_resnas'"):
        search_spaces.names()
    monkeypatch.setattr(families["vit_resnas"], "VARIANTS", {"matformer": {}})
    with pytest.raises(UsageError, match="'matformer': 'matformer' and 'vit_resnas'"):
        search_spaces.get("matformer")


def test_a_route_is_that_of_a_family_which_joins_models() -> None:
    space = search_spaces.get("stitching")
    route = search_spaces.route_of(space, space.largest)
    assert str(route) == space.largest["stitch"]
    space = search_spaces.get("matformer")
    assert search_spaces.route_of(space, space.largest) is None
