"""The source of an exported module stands alone: torch and the standard library, nothing of ours."""

import ast
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import search_spaces
import supernet
from nas.exported.source import of_class as standalone_source
from search_spaces.errors import UsageError
from supernet.pretrained.subnet_folders import network_classes


def imported(source: str) -> set[str]:
    """Top-level names of everything that the source imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    return names


@pytest.mark.parametrize("kind", network_classes().values(), ids=network_classes().keys())
def test_it_needs_torch_only(kind: type[nn.Module]) -> None:
    source = standalone_source(kind)
    assert imported(source) <= {"torch", *sys.stdlib_module_names}
    assert ast.get_docstring(ast.parse(source))
    classes = [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    assert len(set(classes)) == len(classes)
    assert kind.__name__ in classes


@pytest.mark.parametrize("family", ["matformer", "vit_resnas", "autoformer", "turbovit_digit_pairs"])
def test_it_runs_and_computes_the_same(family: str) -> None:
    net = supernet.build(search_spaces.get(family)).eval()
    module = net.extract(net.space.smallest)
    written = ModuleType("written")
    exec(compile(standalone_source(type(module)), "modeling.py", "exec"), written.__dict__)
    twin = getattr(written, type(module).__name__)(**module.config)  # type: ignore[arg-type]
    twin.load_state_dict(module.state_dict(), strict=True)
    x = net.example_input(2)
    with torch.no_grad():
        assert torch.equal(twin.eval()(x), module(x))


def written(folder: Path, imports: str) -> type[nn.Module]:
    """A module in a file that begins with these imports."""
    file = folder / "own.py"
    body = "class Own(nn.Module):\n    def __init__(self) -> None:\n        super().__init__()\n"
    file.write_text(f'"""One of our own."""\n\n{imports}\n\n\n{body}')
    own = ModuleType("own")
    own.__file__ = str(file)
    exec(compile(file.read_text(), str(file), "exec"), own.__dict__)
    sys.modules["own"] = own
    kind: type[nn.Module] = own.Own
    return kind


def test_future_imports_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own", ModuleType("own"))
    imports = (
        "from __future__ import annotations\n\nfrom torch import nn\n\nfrom supernet.plain.layers import Mlp"
    )
    source = standalone_source(written(tmp_path, imports))
    compile(source, "modeling.py", "exec")
    assert source.count("__future__") == 1
    assert source.index("__future__") < source.index("class Mlp") < source.index("class Own")


def test_a_plain_part_under_another_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own", ModuleType("own"))
    imports = "from torch import nn\n\nfrom supernet.plain.layers import Mlp as Feed"
    with pytest.raises(UsageError, match=r"'own.py' imports Mlp as Feed"):
        standalone_source(written(tmp_path, imports))
