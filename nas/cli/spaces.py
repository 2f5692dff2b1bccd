"""`nas spaces`: what can be searched, and what an architecture costs, without building it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import AsJSON, Overrides, parse_architecture
from nas.cli.output import amount, emit, emit_json, emit_pairs, emit_table
from nas.cli.stored import names

if TYPE_CHECKING:
    from search_spaces import SearchSpace

MOST_LISTED = 16

app = typer.Typer(help="What can be searched.")

SpaceName = Annotated[
    str,
    typer.Argument(metavar="SPACE", help="A space; `nas spaces ls` lists them.", autocompletion=names.spaces),
]


@app.callback(invoke_without_command=True)
def _spaces(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        ls(as_json=False)


@app.command("ls")
def ls(as_json: AsJSON = False) -> None:
    """List the search spaces.

    \b
    Example:
      nas spaces ls
    """
    import search_spaces

    if as_json:
        emit_json(space_rows())
        return
    spaces = [search_spaces.get(name) for name in search_spaces.names()]
    rows = [(s.name, s.family, f"{s.size:,}", amount(s.cost(s.largest).params)) for s in spaces]
    columns = ("SPACE", "FAMILY", "ARCHITECTURES", "LARGEST")
    emit_table(columns, rows, right=columns[2:])


def space_rows() -> list[dict[str, Any]]:
    """The search spaces that ship with Elastiform: the JSON of `nas spaces ls`."""
    import search_spaces

    spaces = [search_spaces.get(name) for name in search_spaces.names()]
    return [{"space": s.name, "family": s.family, "size": str(s.size)} for s in spaces]


@app.command("show")
def show(name: SpaceName, options: Overrides = None, as_json: AsJSON = False) -> None:
    """Show the choices of a space.

    \b
    Examples:
      nas spaces show vit_resnas
      nas spaces show matformer --set depth=[1,2]
    """
    space = _space(name, options)
    if as_json:
        emit_json(space_choices(space))
        return
    emit_pairs(
        {
            "space": space.name,
            "family": space.family,
            "architectures": f"{space.size:,}",
            "presets": ", ".join(space.presets),
        }
    )
    emit("")
    rows = [(c.name, _listed(c.options), _needs(c.needs)) for c in space.choices]
    emit_table(("CHOICE", "OPTIONS", "ONLY IF"), rows)


def space_choices(space: "SearchSpace") -> dict[str, Any]:
    """The choices of a space: the JSON of `nas spaces show`."""
    choices = [
        {
            "name": choice.name,
            "options": list(choice.options),
            "needs": choice.needs and {"choice": choice.needs[0], "options": list(choice.needs[1])},
        }
        for choice in space.choices
    ]
    data = {"space": space.name, "family": space.family, "size": str(space.size)}
    return data | {"choices": choices, "presets": list(space.presets)}


@app.command("cost")
def cost(
    name: SpaceName,
    preset: Annotated[str | None, typer.Option("--preset", metavar="NAME", help="A named point.")] = None,
    arch: Annotated[str | None, typer.Option("--arch", metavar="JSON", help="An architecture.")] = None,
    options: Overrides = None,
    as_json: AsJSON = False,
) -> None:
    """Print the exact cost of one architecture, for one sample.

    \b
    Example:
      nas spaces cost matformer_vit_b16 --preset xl
    """
    from search_spaces.errors import UsageError
    from search_spaces.layers import fvcore_flops

    if (preset is None) == (arch is None):
        raise UsageError(
            "Say which architecture: exactly one of --preset and --arch.", "Try --preset largest."
        )
    space = _space(name, options)
    chosen = (
        space.preset(preset) if preset is not None else space.architecture(parse_architecture(arch or ""))
    )
    total = space.cost(chosen)
    data = {"space": space.name, "architecture": chosen.to_dict(), "params": total.params, "macs": total.macs}
    data |= {"fvcore_flops": fvcore_flops(space.layers(chosen))}
    data |= {"activation_bytes": total.activation_bytes, "weight_bytes": total.weight_bytes}
    if as_json:
        emit_json(data)
        return
    lines: dict[str, object] = {"space": space.name, "architecture": chosen}
    lines |= {"parameters": f"{total.params:,}", "MACs": f"{total.macs:,}"}
    lines |= {"FLOPs as fvcore counts": f"{data['fvcore_flops']:,}"}
    lines |= {"weights": f"{total.weight_bytes:,} bytes", "activations": f"{total.activation_bytes:,} bytes"}
    emit_pairs(lines)


def _space(name: str, options: list[str] | None) -> "SearchSpace":
    """The space with its options. Raises what `search_spaces.get` raises, or UsageError."""
    import search_spaces
    from nas.config import yaml
    from search_spaces.errors import NASError, UsageError

    given: dict[str, Any] = {}
    for option in options or ():
        key, equals, text = option.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(
                f"--set {option[:80]!r} is not of the form option=value.", "Such as --set depth=[1,2]."
            )
        given[key] = yaml.read_text(text, where=f"--set {key}")
    try:
        return search_spaces.get(name, **given)
    except NASError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        if not given:
            raise
        raise UsageError(f"Space '{name}' cannot take these options: {error}.") from error


def _listed(options: tuple[Any, ...]) -> str:
    """All options, or of many the first and the last."""
    words = list(map(str, options))
    if len(words) > MOST_LISTED:
        half = MOST_LISTED // 4
        words = [*words[:half], f"... ({len(words)} in all; --json lists them) ...", *words[-half:]]
    return ", ".join(words)


def _needs(needs: tuple[str, tuple[Any, ...]] | None) -> str:
    return f"{needs[0]} is {' or '.join(map(str, needs[1]))}" if needs else ""
