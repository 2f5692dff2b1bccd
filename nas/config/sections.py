"""The sections of a job file as strict models; every field has a default that works."""

import re
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nas.config.init import Init
from nas.config.ray_address import is_cluster
from nas.config.strict import Options, by_author, check_option_names, known_component
from supernet.training.recipe import Recipe
from supernet.training.sections import AList, Count, NotNegative, Positive, Section, Share, Text, Threads

FP32 = "fp32"  # the precision of the supernet's own evaluations
MOST_OF_AN_OPTION = 1_000_000_000  # a number of a searcher's
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]

DataSetName = Annotated[str, AfterValidator(partial(known_component, "nas.datasets"))]
FamilyName = Annotated[str, AfterValidator(partial(known_component, "supernet.families"))]
SearcherName = Annotated[str, AfterValidator(partial(known_component, "nas.searchers"))]


class DataConfig(Section):
    """A data set by name; every further key is an option of its `build`, in `options`.

    name: a data set, or somebody's own module by a dotted name. Example: `image_folder`
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: Options

    name: DataSetName = "digit_pairs"

    @model_validator(mode="after")
    def _options_known(self, info: ValidationInfo) -> Self:
        if self.options and by_author(info):  # without any, nothing heavy is imported to look
            check_option_names("nas.datasets", self.name, self.options)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What is handed to the data set's `build`."""
        return dict(self.__pydantic_extra__)


class SupernetConfig(Section):
    """What is trained: the family, the options of its space, and where its weights begin.

    family: a family, or somebody's own module by a dotted name. Example: `vit_resnas`
    variant: a named space of the family (`nas spaces` lists them), whose options lie below those in `space`.
    Example: `vit_resnas_tiny`
    space: options of the family's space, as its page has them. Example: `{embed_dim: [16, 32, 64], depth: [1,
    2, 3]}`
    init: where the weights begin: `scratch`, or the weights of a model. Example: `{timm:
    vit_tiny_patch16_224}`
    use: a supernet that is trained already, by its name or a job's (`nas supernets` lists them); it says all
    the rest. Example: `quickstart`
    """

    family: FamilyName = "matformer"
    variant: Text | None = None
    space: Options = Field(default_factory=dict)
    init: Init = "scratch"
    use: Text | None = None

    @model_validator(mode="after")
    def _says_it_once(self, info: ValidationInfo) -> Self:
        given = sorted(self.model_fields_set - {"use", "name"})
        if self.use is not None and given and by_author(info):
            raise ValueError(f"use names a supernet that is trained: leave {', '.join(given)} out")
        return self


class TrainConfig(Recipe):
    """How and where the shared weights are trained.

    recipe: whose values hold where nothing is said: the family's `own` or, where they are known, those
    `published` with the authors' code. Example: `published`
    device: where it is trained; `auto`: on a GPU if there is one. Example: `cpu`
    checkpoint_every [steps]: how often the training is saved, to go on from there after an interruption.
    Example: `1000`
    threads [threads]: of each process that trains; 0: all cores. Example: `1`
    loaders [processes]: what prepares batches, for each of the workers; 0: a thread of theirs. Example: `8`
    workers [processes]: what shares each batch of the supernet's training, of this machine or of the Ray
    cluster (`execution.engine`); 1: the job's own process trains. Example: `4`
    """

    recipe: Literal["own", "published"] = "own"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every: Count = 500
    threads: Annotated[int, Field(ge=0, le=4096)] = 0
    loaders: Annotated[int, Field(ge=0, le=1024)] = 0
    workers: Annotated[int, Field(ge=1, le=1024)] = 1

    @model_validator(mode="after")
    def _each_worker_has_examples(self) -> Self:
        if self.workers > self.batch_size:
            raise ValueError(
                f"workers ({self.workers}) must not be more than batch_size ({self.batch_size}): each has "
                "examples of a batch"
            )
        return self


LONGEST_SUPERNET = 40  # characters of its name
PLACE = ("device", "threads", "loaders", "workers")  # of a training, which are the job's


def _supernet_name(value: str) -> str:
    if not 0 < len(value) <= LONGEST_SUPERNET or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value, re.ASCII):
        raise ValueError(
            f"must be 1 to {LONGEST_SUPERNET} letters, digits, '_', '-' or '.', a letter or digit first"
        )
    return value


class SupernetEntry(SupernetConfig):
    """One of several supernets: all that section `supernet` says of one, and how its training differs.

    name: how its subnets name it; null: by its family, with a number where two are of one family. Example:
    `small-patches`
    train: over the job's section `train`; of a stored job the whole recipe. Example: `{steps: 3000}`
    """

    name: Annotated[str, AfterValidator(_supernet_name)] | None = None
    train: TrainConfig | None = None

    @property
    def supernet(self) -> SupernetConfig:
        """As the only one of a job."""
        fields = self.model_fields_set & SupernetConfig.model_fields.keys()
        return SupernetConfig.model_construct(fields, **{name: getattr(self, name) for name in fields})


def supernet_names(entries: Sequence[SupernetEntry]) -> list[str]:
    """The entries' own names, or else their families, with a number where that is taken."""
    names = [entry.name for entry in entries]
    for i, entry in enumerate(entries):
        if names[i] is None:
            family, taken = entry.family.rpartition(".")[2], set(names)
            numbered = (family if n == 1 else f"{family}-{n}" for n in range(1, len(entries) + 2))
            names[i] = next(name for name in numbered if name not in taken)
    return [str(name) for name in names]


def check_entries(entries: Sequence[SupernetEntry], train: TrainConfig) -> None:
    """Raises ValueError for no entries, equal ones, two of one name, and one that trains somewhere else.

    train: the job's own section.
    """
    if not entries:
        raise ValueError("supernets is empty: list at least one, such as {family: vit_resnas}")
    settings = [entry.model_dump(mode="json", exclude={"name"}) for entry in entries]
    for i, one in enumerate(settings):
        if one in settings[:i]:
            raise ValueError(
                f"supernets.{settings.index(one)} and supernets.{i} are equal: leave one of them out"
            )
    names = [entry.name for entry in entries if entry.name is not None]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two of the supernets are called '{name}'")
    for i, entry in enumerate(entries):
        for field in PLACE if entry.train is not None else ():
            if getattr(entry.train, field) != getattr(train, field):
                raise ValueError(
                    f"supernets.{i}.train.{field} differs from train.{field}, which is the job's"
                )


class StopConfig(Section):
    """Ends a search whose last `patience` batches each gained less than `gain` of the hypervolume before.

    gain [share of the hypervolume]: what a batch has to add to count as a gain. Example: `0.005`
    patience [batches]: how many without a gain end the search. Example: `5`
    """

    gain: Annotated[float, Field(gt=0, lt=1)] = 0.001
    patience: Count = 3


class SearchConfig(Section):
    """How many subnets are evaluated, in what batches, on how many images and reported.

    searcher: what proposes, or somebody's own module by a dotted name. Example: `evolution`
    options: of the searcher's `build`, as these of `evolution`. Example: `{first: pruned}`
    evaluations [subnets]: the budget of the search. Example: `400`
    batch [subnets]: what is proposed, and evaluated, at once; a searcher may begin with less. Example: `32`
    population [subnets]: a generation of the searchers that have generations. Example: `64`
    finalists [subnets]: how many the front has at most. Example: `8`
    images [examples]: on how many of the search split subnets are evaluated; null: on all. Example: `1000`
    racing [probability]: subnets are evaluated on growing parts of the images and stop when they are clearly
    worse than the front; this is the probability with which one that is not worse is taken to be. Besides, at
    most half of a batch goes on after each part. null: all see all images. Example: `0.05`
    latency_margin [standard deviations]: a limit on latency or peak memory holds for the prediction plus so
    many of its standard deviations. Example: `2.0`
    measure_above [share of the prediction]: a subnet that would enter the front is measured during the search
    when half of the 90 % interval of its latency is more than this; null: never. Example: `0.2`
    stop: ends the search early; null: it uses its budget. One that covers all subnets is used in any case.
    Example: `{gain: 0.001, patience: 3}`
    seed: of the proposals; null: the job's. Example: `7`
    source: a finished job with the same supernet, whose evaluations within the limits the search begins with;
    they count in `evaluations`. Example: `quickstart`
    start: with what the search begins: `uniform` networks, all choices at one level; `sensitivity`: first
    with those that give up least for what they save, by what each choice alone costs on training examples;
    the default searcher believes so of others, too, until it knows better. New jobs that begin with a trained
    language model have it, unless they have a budget in time. Of several supernets it is uniform. Example:
    `sensitivity`
    """

    searcher: SearcherName = "surrogate"
    options: Options = {}  # noqa: RUF012 - pydantic copies it
    evaluations: Annotated[int, Field(ge=1, le=10_000_000)] = 200
    batch: Annotated[int, Field(ge=1, le=100_000)] = 16
    population: Annotated[int, Field(ge=2, le=1_000_000)] = 32
    finalists: Annotated[int, Field(ge=1, le=100_000)] = 16
    images: Count | None = None
    racing: Annotated[float, Field(gt=0, lt=0.5)] | None = 0.1
    latency_margin: NotNegative = 1.0
    measure_above: Positive | None = 0.1
    stop: StopConfig | None = None
    seed: Seed | None = None
    source: Text | None = None
    start: Literal["uniform", "sensitivity"] = "uniform"

    @field_validator("options")
    @classmethod
    def _options_known(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if options and by_author(info) and "searcher" in info.data:
            for name, value in options.items():
                if isinstance(value, int | float) and abs(value) > MOST_OF_AN_OPTION:
                    raise ValueError(f"{name[:60]} is too large: at most {MOST_OF_AN_OPTION:,} is possible")
            check_option_names("nas.searchers", info.data["searcher"], options, given=1)
        return options


LONGEST_SHARE = 4.0  # of the supernet's steps
LARGEST = 0.3  # of the steps


def _checked_steps(value: Any) -> Any:
    """Raises ValueError unless it is a share (a float) or a number of steps (an int)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a share of train.steps, such as 0.5, or a whole number of steps")
    if isinstance(value, float) and not 0 < value <= LONGEST_SHARE:
        raise ValueError(f"as a share of train.steps it must be above 0 and at most {LONGEST_SHARE:g}")
    if isinstance(value, int) and not 1 <= value <= 1_000_000_000:
        raise ValueError("as a number of steps it must be at least 1 and at most 1,000,000,000")
    return value


class FinalistTraining(Section):
    """How the finalists are trained further before they are reported.

    how: `together`, as a supernet of nothing but them, whose weights stay shared; `alone`, each by itself
    from the weights that it inherits. Example: `alone`
    steps [share of train.steps, or steps]: a share (a float), or their number (an int); of `alone` those of
    each finalist. Example: `0.25`
    lr [factor]: on the supernet's learning rates. Example: `0.3`
    largest [share of the steps]: of `together`: in how many the finalist with most MACs is trained (null:
    0.3); in the others it is one at random. Example: `0.5`
    teacher: of `together`: `largest` trains that finalist in every step, and it teaches another one. Example:
    `largest`
    """

    how: Literal["together", "alone"] = "together"
    steps: Annotated[int | float, BeforeValidator(_checked_steps)] = 0.5
    lr: Positive = 0.6
    largest: Share | None = None
    teacher: Literal["largest"] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.how == "alone" and self.teacher is not None:
            raise ValueError("teacher belongs to how: together; alone each finalist learns by itself")
        if self.how == "alone" and self.largest is not None:
            raise ValueError("largest belongs to how: together; alone each finalist has steps of its own")
        if self.teacher is not None and self.largest is not None:
            raise ValueError("with a teacher the largest finalist is in every step: leave largest away")
        return self

    def count(self, supernet_steps: int) -> int:
        """The number of steps, of a supernet that was trained for so many; 0 for too small a share."""
        return self.steps if isinstance(self.steps, int) else round(self.steps * supernet_steps)

    @property
    def largest_share(self) -> float:
        """`largest`, or its default."""
        return LARGEST if self.largest is None else self.largest


def _training(value: Any) -> Any:
    """`train: true` takes the defaults, `train: false` is that there is none."""
    return {} if value is True else None if value is False else value


ALL = "all"  # examples of the report split


def _checked_images(value: Any) -> Any:
    """Raises ValueError unless it is `all`, or how many examples of the report split."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if value not in (None, ALL) and not (is_number and 0 <= value <= 1_000_000_000):
        raise ValueError("must be all, or how many images of the report split: 0 or more")
    return value


class FinalistsConfig(Section):
    """What becomes of the finalists of the search. How many there are says `search.finalists`.

    train: how they are trained further; `true` takes the defaults; null: they keep the weights that they
    inherit. Example: `true`
    device_images [examples]: on how many of the report split their quality is also computed by the backends
    of all devices: a number, drawn from the split, or `all`; 0: on none; null: on all, by the devices that
    compute in another precision than fp32. (A job that was stored before there was this field: none.)
    Example: `all`
    """

    train: Annotated[FinalistTraining | None, BeforeValidator(_training)] = None
    device_images: Annotated[int | Literal["all"] | None, BeforeValidator(_checked_images)] = None

    def images_on(self, precision: str) -> int | Literal["all"]:
        """On how many examples the quality is computed by a device of this precision."""
        if self.device_images is not None:
            return self.device_images
        is_asked = "device_images" in self.model_fields_set and precision != FP32
        return "all" if is_asked else 0


def _checked_address(value: str) -> str:
    if value != "local" and not is_cluster(value):
        raise ValueError(f"must be local, auto or HOST:PORT, not '{value[:60]}'")
    return value


class ExecutionConfig(Section):
    """Who evaluates subnets: how many processes, with how many threads each.

    engine: `local`, processes of this machine, or `ray`, actors. Example: `ray`
    address: of `ray`: `local` starts one on this machine, `auto` takes the cluster that this machine is part
    of, `HOST:PORT` the one whose head is there. Example: `auto`
    workers [processes]: how many evaluate at a time. Example: `16`
    threads [threads]: of each of them. Example: `2`
    cache_mib [MiB]: what each process remembers of activations between batches of subnets; 0: nothing.
    Example: `1024`
    siblings: subnets that differ only in the width of an FFN compute it together, which changes logits by
    rounding (1e-6) against the extracted subnet. Example: `false`
    """

    engine: Literal["local", "ray"] = "local"
    address: Annotated[Text, AfterValidator(_checked_address)] = "local"
    workers: Annotated[int, Field(ge=1, le=1024)] = 2
    threads: Threads = 1
    cache_mib: Annotated[int, Field(ge=0, le=1_000_000)] = 256
    siblings: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.engine == "local" and self.address != "local":
            raise ValueError("address is that of a Ray cluster: it needs engine: ray")
        return self


class StoreConfig(Section):
    """What a job does when its store stops answering.

    patience [s]: for how long a database server that was there is tried again before the job ends. Example:
    `60.0`
    """

    patience: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 600.0


LONGEST_URL = 2_000


def _checked_url(value: str) -> str:
    """Raises ValueError unless it is https, or http to this machine, and holds no user and no password."""
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if len(value) > LONGEST_URL or not value.isascii() or not value.isprintable() or " " in value or not host:
        raise ValueError("must be a URL, such as https://example.org/hook or http://127.0.0.1:8000/hook")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError("must begin with https://, or with http:// and an address of this machine")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or a password: they would stand in the store")
    return value


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class NotifyConfig(Section):
    """Who is told when the job has succeeded, failed or stopped: a JSON object is sent, and nothing secret.

    url: gets it as a POST. Example: `https://example.org/hook`
    command: a program and its arguments, which gets it on its standard input. Example: `[mail-me, --json]`
    """

    url: Annotated[Text, AfterValidator(_checked_url)] | None = None
    command: Annotated[tuple[Text, ...], AList, Field(min_length=1, max_length=100)] | None = None

    @model_validator(mode="after")
    def _tells_somebody(self) -> Self:
        if self.url is None and self.command is None:
            raise ValueError("notify names nobody: give url or command")
        return self
