"""Which part of a subnet drafts best for it, and how many tokens at a time: chosen and told on texts.

The target writes what follows the beginnings of texts. Drafts are compared on the search split by how much of
that they would have proposed (`supernet.evaluation.acceptance`) and by what a step of each costs; what is
told of the chosen one is of the report split. The answer stays with the job, and `nas front` shows it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from nas.analysis.narrower import alone, check_same_supernet, ffn_choices, is_part, together, uniform
from nas.analysis.step_costs import StepCosts, step_costs
from nas.config.components import stored_config
from nas.datasets import SPLITS, DataSet
from nas.job_run import Run, after_job, check_finished, subnet_row
from nas.progress import Progress
from nas.results.extraction import data_of, extracted, reported_weights, weights_file
from nas.results.frames import DRAFTS
from nas.spaces.job_space import space_of
from nas.store import Job, Store, Subnet
from nas.watchdog import Leave
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import NotFoundError, UsageError
from supernet.evaluation.acceptance import Written, agreements, rounds, speed_up, written
from supernet.plain.decoder import Decoder
from supernet.speculation import nested_draft
from supernet.supernet import Supernet
from supernet.tasks.language import NO_TARGET

MOST_STORED = 64  # subnets of the job that are looked at; of more, some of all sizes
RUN_AS_ASKED = 3  # of the best on the search split, before one of them is chosen
ALONE = 4  # a layer alone is looked at on one of so many texts
MOST_TOKENS = 64  # that are looked at behind a text, unless said otherwise
TOLD = 10  # drafts whose figures on the search split are told

Thing = TypeVar("Thing")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How drafts are looked at.

    draft: the beginning of the key of the only one.  new: architectures that the job has not looked at, too.
    device: whose steps of decoding count; by default the first of the job's that runs such.
    weights: the target's; by default those with which the front reports it.
    texts: of each split, at most.  prompt: tokens that are read of each, by default a quarter of the context.
    tokens: behind which a round can begin, by default all that the context has room for, at most MOST_TOKENS.
    ahead: that are proposed at a time, at most.  shared: with what target and draft remember in one place.
    further: what each token beyond the first costs a call of the target, in calls.
    """

    draft: str | None = None
    new: bool = False
    device: str | None = None
    weights: str | None = None
    texts: int = 32
    prompt: int | None = None
    tokens: int | None = None
    ahead: int = 8
    shared: bool = True
    further: float = 0.0


@dataclass(frozen=True)
class Figures:
    """A draft with `ahead` tokens a round: the share of them that is accepted, and what follows from it.

    tokens_a_call: of the target.  speed_up: how many times as fast as without a draft, as costs foretell.
    Standard errors are of the acceptance, clustered by document.
    """

    ahead: int
    acceptance: float
    acceptance_stderr: float
    tokens_a_call: float
    speed_up: float
    speed_up_stderr: float


@dataclass(frozen=True)
class Tried:
    """A draft as it is told on a split.

    cost: a step of it, in steps of the target.  shared: whether it was looked at with the target's memory.
    """

    arch: Architecture
    params: int
    cost: float
    shared: bool
    best: Figures

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without a level."""
        named = {"draft": self.arch.key, "architecture": self.arch.to_dict(), "params": self.params}
        return named | {"cost": self.cost, "shared_cache": self.shared} | asdict(self.best)


def drafts(
    store: Store,
    job: Job,
    subnet: str,
    asked: Asked = Asked(),
    *,
    progress: Progress,
    end: Leave | None = None,
) -> dict[str, Any]:
    """What is told of the best draft for the subnet whose key begins so, as plain data.

    best: on the report split.  by_ahead: the same with other numbers of tokens.  candidates: on the search
    split, the best first, as foretold; the cost in `best` is measured where it can be (`measured`).
    The same question is answered once.  end: as of `nas.pipeline.run`.
    Raises ConflictError for a job that is not finished, NotFoundError where there is no draft, UsageError for
    jobs of images, texts that do not fit into the context, and a draft that is no part of the target.
    """
    check_finished(store, job)
    question = _Question.of(store, job, subnet, asked)
    name, inputs = f"{DRAFTS}-{question.row.key}", question.inputs(store)
    with after_job(store, job, stored_config(job), progress, end) as run:
        looking = None if run.known(name, inputs) else _Looking.of(question, _data(store, job), store)
        result = run.once(name, inputs, partial(_answer, run, question, looking))
    return {"job": job.name, **result}


@dataclass(frozen=True, eq=False)
class _Question:
    """A target, its possible drafts and their costs; lengths in tokens."""

    job: Job
    row: Subnet
    asked: Asked
    weights: str
    space: SearchSpace
    target: Architecture
    stored: tuple[Architecture, ...]
    costs: StepCosts
    prompt: int
    tokens: int

    @classmethod
    def of(cls, store: Store, job: Job, subnet: str, asked: Asked) -> "_Question":
        """Raises as `drafts`."""
        space, row = space_of(store, job), store.subnet(job, subnet)
        target = space.architecture(row.architecture)
        if not ffn_choices(space, target):
            raise UsageError(f"Job '{job.name}' is about images: its subnets continue no text.")
        prompt, tokens = _lengths(asked, int(space.members[space.own(target)[0]].options["context"]))
        costs = step_costs(store, job, space, device=asked.device, context=prompt + tokens)
        weights = asked.weights or reported_weights(store, job, row.key)
        stored = _stored(store, job, space, target, asked)
        return cls(job, row, asked, weights, space, target, stored, costs, prompt, tokens)

    def inputs(self, store: Store) -> dict[str, Any]:
        """What the answer depends on, as plain data.

        Of the subnets that the job has looked at nothing: what is answered here may be one more.
        """
        file = weights_file(store, self.job, self.row, self.weights)
        stage = store.stage(self.job, "space")
        data = stage.told("data", "digest") if stage is not None else None
        asked = asdict(self.asked) | {"prompt": self.prompt, "tokens": self.tokens, "weights": self.weights}
        asked |= {"draft": self.asked.draft and self.stored[0].key, "device": self.costs.device}
        return {"asked": asked, "file": file.sha256, "data": data}


def _lengths(asked: Asked, context: int) -> tuple[int, int]:
    """Tokens that are read, and behind which rounds can begin. Raises UsageError where there is no room."""
    prompt = asked.prompt or max(1, context // 4)
    room = context - prompt - asked.ahead
    tokens = asked.tokens or min(MOST_TOKENS, room)
    if tokens < 1 or tokens > room:
        raise UsageError(
            f"Texts of {prompt} tokens, {max(tokens, 1)} behind them and a round of {asked.ahead} do not fit "
            f"into the context of {context}.",
            "Ask for fewer: --prompt, --tokens, --ahead.",
        )
    return prompt, tokens


def _stored(
    store: Store, job: Job, space: SearchSpace, target: Architecture, asked: Asked
) -> tuple[Architecture, ...]:
    """The subnets of the job that are asked about; raises NotFoundError where that is none."""
    if asked.draft is not None:
        draft = space.architecture(store.subnet(job, asked.draft).architecture)
        check_same_supernet(space, draft, target)
        return (draft,)
    parts = [
        (row.params, arch)
        for row in store.subnets(job)
        if is_part(space, arch := space.architecture(row.architecture), target)
    ]
    parts.sort(key=lambda part: (part[0], part[1].key))
    if len(parts) > MOST_STORED:
        places = torch.linspace(0, len(parts) - 1, MOST_STORED).round().long().tolist()
        parts = [parts[i] for i in dict.fromkeys(places)]
    if not parts and not uniform(space, target):
        raise NotFoundError(f"No FFN of the space is narrower than those of '{target.key}'.")
    if not parts and not asked.new:
        raise NotFoundError(
            f"Job '{job.name}' has looked at no subnet that is a part of '{target.key}'.",
            "A part has the same layers, heads and width, and narrower FFNs; --new tries such.",
        )
    return tuple(arch for _, arch in parts)


def _data(store: Store, job: Job) -> DataSet:
    data = data_of(store, job)
    if data is None:
        raise NotFoundError(
            f"The data of job '{job.name}' are not on this machine, or are not what they were.",
            "Ask where they are.",
        )
    return data


@dataclass(frozen=True, eq=False)
class _Beginnings:
    """The first tokens (B, P) of texts of a split. sources: what these have in common, (B, k)."""

    texts: Tensor
    sources: Tensor | None

    @classmethod
    def of(cls, data: DataSet, split: str, *, count: int, length: int) -> "_Beginnings":
        """Of the first texts that are long enough, `count` at most. Raises UsageError where none is."""
        rows, parts, place = list[int](), list[Tensor](), 0
        for inputs, targets in data.batches(split, count):
            whole = (targets[:, : length - 1] != NO_TARGET).all(dim=1)
            rows += (place + whole.nonzero()[:, 0]).tolist()
            parts.append(inputs[whole, :length])
            place += len(inputs)
            if len(rows) >= count:
                break
        if not rows:
            raise UsageError(f"No text of split {split} has {length} tokens.", "Ask for a shorter --prompt.")
        sources = data.sources(split)
        return cls(torch.cat(parts)[:count], None if sources is None else sources[rows[:count]])


@dataclass(frozen=True, eq=False)
class _Texts:
    """What the target has written. sources: what the texts have in common."""

    written: Written
    sources: Tensor | None

    def some(self, count: int) -> "_Texts":
        """The first of them."""
        whole = self.written
        cache = [(keys[:count], values[:count]) for keys, values in whole.cache]
        sources = None if self.sources is None else self.sources[:count]
        return _Texts(Written(whole.texts[:count], whole.tokens[:count], cache), sources)


@dataclass(frozen=True, eq=False)
class _Looking:
    """The target's network, and beginnings of texts by split, behind which it writes."""

    question: _Question
    net: Supernet
    target: Decoder
    beginnings: Mapping[str, _Beginnings]

    @classmethod
    def of(cls, question: _Question, data: DataSet, store: Store) -> "_Looking":
        """Raises UsageError for networks that are no decoders, a draft that is no part, and short texts."""
        net, module = extracted(store, question.job, question.row, question.weights)
        if not isinstance(module, Decoder):
            raise UsageError(f"The subnets of job '{question.job.name}' are no decoders.")
        size, length = question.asked.texts, question.prompt
        texts = {name: _Beginnings.of(data, name, count=size, length=length) for name in SPLITS}
        looking = cls(question, net, module, texts)
        for arch in question.stored:
            looking.draft(arch)
        return looking

    def texts(self, split: str) -> _Texts:
        """What the target writes behind those of a split."""
        count = self.question.tokens + self.question.asked.ahead
        beginnings = self.beginnings[split]
        return _Texts(written(self.target, beginnings.texts, count), beginnings.sources)

    def draft(self, arch: Architecture) -> Decoder:
        """The part of the target. Raises UsageError for what is none."""
        with torch.device("meta"):
            arguments: Any = self.net.plain(self.question.space.own(arch)[1]).config
        return nested_draft(self.target, arguments)

    def agreed(self, arch: Architecture, texts: _Texts, *, shared: bool) -> Tensor:
        """As of `agreements`."""
        return agreements(self.draft(arch), texts.written, self.question.asked.ahead, shared=shared)

    def tried(self, arch: Architecture, texts: _Texts, *, shared: bool) -> Tried:
        """A draft with the number of tokens that is best for it, by what it is predicted to cost."""
        question, agreed = self.question, self.agreed(arch, texts, shared=shared)
        cost = question.costs.share(arch, question.target)
        best = max(self.by_ahead(agreed, texts, cost), key=lambda one: one.speed_up)
        return Tried(arch, question.space.cost(arch).params, cost, shared, best)

    def by_ahead(self, agreed: Tensor, texts: _Texts, cost: float) -> list[Figures]:
        """What is told of a draft with one token at a time, two, and so on."""
        asked = self.question.asked
        numbers = range(1, asked.ahead + 1)
        return [_figures(agreed, ahead, texts.sources, cost, asked.further) for ahead in numbers]


def _figures(agreed: Tensor, ahead: int, sources: Tensor | None, cost: float, further: float) -> Figures:
    share = rounds(agreed, ahead).acceptance(sources)
    faster, without = (speed_up(value, ahead, cost, further) for value in (share.value, 0.0))
    of_share = ahead * without  # by how much the speed-up rises with the acceptance
    return Figures(ahead, share.value, share.stderr, 1 + ahead * share.value, faster, of_share * share.stderr)


def _answer(run: Run, question: _Question, looking: _Looking | None) -> dict[str, Any]:
    assert looking is not None, "it was loaded, as no answer is stored"
    texts = looking.texts("search")
    candidates = _compared(run, looking, texts)
    best, shared = candidates[0], question.asked.shared
    reported = looking.texts("report")
    measured = question.costs.measured_share(best.arch, question.target)
    cost = best.cost if measured is None else measured
    agreed = looking.agreed(best.arch, reported, shared=shared)
    by_ahead = looking.by_ahead(agreed, reported, cost)
    chosen = replace(best, cost=cost, best=by_ahead[best.best.ahead - 1])
    run.store.add_subnets(run.lease, [subnet_row(question.space, best.arch)])
    costs = {"name": question.costs.name, "device": question.costs.device, "context": question.costs.context}
    return {
        "subnet": question.row.key,
        "weights": question.weights,
        "shared_cache": shared,
        "cost": costs,
        "further": question.asked.further,
        "texts": {"search": len(texts.written.texts), "report": len(reported.written.texts)},
        "prompt": question.prompt,
        "tokens": question.tokens,
        "tried": len(candidates),
        "best": chosen.to_dict() | {"measured": measured is not None},
        "by_ahead": [asdict(one) for one in by_ahead],
        "candidates": [one.to_dict() for one in candidates[:TOLD]],
    }


def _compared(run: Run, looking: _Looking, texts: _Texts) -> list[Tried]:
    """All drafts that are looked at, the best first.

    Of many each is looked at with a memory of its own, which is quicker, and the best of them once more as
    they are to run.
    """
    question = looking.question
    space, target, asked = question.space, question.target, question.asked
    archs = dict.fromkeys(question.stored)
    if asked.new and asked.draft is None:
        archs |= dict.fromkeys(uniform(space, target))
        archs |= dict.fromkeys(together(space, target, _least_missed(run, looking, texts)))
    tried: list[Tried] = []
    if len(archs) > RUN_AS_ASKED or not asked.shared:
        tried = _in_order(looking.tried(arch, texts, shared=False) for arch in _each(run, archs))
    if not asked.shared:
        return tried
    best = [one.arch for one in tried[:RUN_AS_ASKED]] or list(archs)
    again = _in_order(looking.tried(arch, texts, shared=True) for arch in _each(run, best))
    return [*again, *tried[RUN_AS_ASKED:]]


def _least_missed(run: Run, looking: _Looking, texts: _Texts) -> list[str]:
    """The choices, first the one without whose neurons the draft agrees best."""
    some = texts.some(max(1, len(texts.written.texts) // ALONE))
    parts = alone(looking.question.space, looking.question.target)
    agreed = {
        name: float(looking.agreed(parts[name], some, shared=False)[:, :, 0].double().mean())
        for name in _each(run, parts)
    }
    return sorted(agreed, key=lambda name: -agreed[name])


def _each(run: Run, things: Collection[Thing]) -> Iterator[Thing]:
    """One after the other, until a stop is asked for."""
    for done, thing in enumerate(things):
        run.check_stop()
        run.progress.update(done, len(things))
        yield thing


def _in_order(tried: Iterable[Tried]) -> list[Tried]:
    return sorted(tried, key=lambda one: (-one.best.speed_up, one.params, one.arch.key))
