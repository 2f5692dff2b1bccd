"""What changes a job from its page: plain forms that are sent to the server which shows it.

The dashboard of one machine has none of them; `nas serve` has them for whoever has shown the write token.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

from dash import dcc, html
from dash.development.base_component import Component

from dashboards.pages import at
from nas.store import Job
from search_spaces.registry import constant, names

RightsOf = Callable[[], "Rights"]  # of whoever has sent the request that is being answered
FORMS = "/api/form/"  # behind which stands what is done
MOST_PRIORITY = 1_000_000
EXPORTERS = "nas.exporters"
ELASTIC = "Download the front on one set of weights"


@dataclass(frozen=True)
class Rights:
    """What whoever looks at a page may do.

    csrf: what his changes are sent with; None: he may change nothing.
    can_sign_in: whether he might after signing in.
    """

    csrf: str | None = None
    can_sign_in: bool = False


NO_RIGHTS = Rights()


def mark(job: Job) -> str:
    """Another text whenever other controls are to be shown."""
    return f"{job.state} {job.paused} {job.stop_requested} {job.priority}"


def controls(job: Job, rights: Rights) -> list[Component]:
    """The buttons that make sense for the job in its state; a link to sign in where that would give them."""
    if rights.csrf is None:
        if not rights.can_sign_in:
            return []
        address = f"{at('/login')}?next={quote(f'/job/{job.id}', safe='')}"
        return [html.P(html.A("Sign in to change this job", href=address), className="facts")]
    verbs = {
        "stop": ("Stop", job.state in ("queued", "running") and not job.stop_requested),
        "pause": ("Pause", _is_submitted(job, "queued", "running") and not job.stop_requested),
        "resume": ("Queue again", _is_submitted(job, "stopped", "failed")),
    }
    parts = [_form(job, rights, verb, name) for verb, (name, is_shown) in verbs.items() if is_shown]
    if _is_submitted(job, "queued", "running", "stopped", "failed"):
        parts.append(_form(job, rights, "priority", "Change priority", [_priority(job)]))
    if job.state == "succeeded":
        parts.append(extraction(job, rights, knee="true"))
        parts.append(_form(job, rights, "extract", ELASTIC, [_hidden("elastic", "true")]))
    if job.stop_requested and job.state == "running":
        parts.append(html.P("It stops after its current batch, or within 10 seconds."))
    return parts


def _is_submitted(job: Job, *states: str) -> bool:
    return job.submitted_at is not None and job.state in states


def remarks(job: Job, rights: Rights, *, is_open: bool = False) -> list[Component]:
    """The forms for the job's note and tags, and behind another click the one that deletes it.

    is_open: whether they are shown without a click.
    """
    if rights.csrf is None:
        return []
    note = dcc.Textarea(name="note", value=job.note or "", rows=3, maxLength=10_000)
    tags = dcc.Textarea(name="tags", value="\n".join(job.tags or ()), rows=3)
    return [
        html.Details(
            [
                html.Summary("Note, tags, deletion"),
                _form(job, rights, "note", "Save note", [html.Label(["Note", note])]),
                _form(job, rights, "tags", "Save tags", [html.Label(["Tags, one a line", tags])]),
                html.Details(
                    [
                        html.Summary("Delete this job"),
                        html.P("Its results and files are gone for good."),
                        _form(job, rights, "remove", "Delete it", then="/"),
                    ]
                ),
            ],
            className="remarks",
            open=is_open,
        )
    ]


def extraction(job: Job, rights: Rights, **choice: str) -> Component:
    """A button for a subnet as a zip file, in a format and a precision.

    choice: fields of the request and their values, as `subnet`.
    """
    fields: list[Component] = [_hidden(name, value) for name, value in choice.items()]
    fields += [_choice("format", _precisions(), "safetensors")]
    fields += [_choice("precision", {one for of in _precisions().values() for one in of}, "fp32")]
    name = "Download the best compromise" if "knee" in choice else "Download it"
    return _form(job, rights, "extract", name, fields)


@cache
def _precisions() -> dict[str, list[str]]:
    """The formats of `nas extract`, and the precisions that each has; nothing of theirs is imported."""
    return {name: list(constant(EXPORTERS, name, "TOLERANCES", {})) for name in names(EXPORTERS)}


def _choice(name: str, options: Iterable[str], usual: str) -> Component:
    """A field whose value is one of these, the usual one first."""
    listed = sorted(options, key=lambda option: (option != usual, option))
    select = html.Select([html.Option(option, value=option) for option in listed], name=name)
    return html.Label([name.capitalize(), select])


def _priority(job: Job) -> Component:
    number = dcc.Input(
        name="priority",
        type="number",
        value=job.priority,
        min=-MOST_PRIORITY,
        max=MOST_PRIORITY,
        step=1,
        required=True,
    )
    return html.Label(["Priority", number])


def _form(
    job: Job,
    rights: Rights,
    verb: str,
    name: str,
    fields: Sequence[Component] = (),
    *,
    then: str | None = None,
) -> Component:
    """A form that is sent to where the verb is done. then: the path to which a browser goes on from there."""
    after = f"/job/{job.id}" if then is None else then
    hidden = [_hidden("csrf", rights.csrf or ""), _hidden("job", str(job.id)), _hidden("next", after)]
    button = html.Button(name, type="submit")
    return html.Form(
        [*hidden, *fields, button], action=at(f"{FORMS}{verb}"), method="post", className=f"change {verb}"
    )


def _hidden(name: str, value: str) -> Component:
    more: dict[str, Any] = {"autoComplete": "off"}
    return dcc.Input(type="hidden", name=name, value=value, **more)
