"""Documents packed into blocks of equally many tokens, in three splits of whole documents.

A document is cut into pieces of a block's length. The last piece of a short document shares a block with
others, whose documents are then one group for standard errors; that of a long one has its block alone. Every
piece begins with the tokenizer's first token, and every token of a document is the target of the one before
it, once: bytes and tokens of all blocks are those of the documents.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.images.seeds import mixed_seed
from nas.text.tokens import Ends, Ids, Tokenizer
from search_spaces.errors import UsageError
from supernet.tasks.language import NO_TARGET

SPLITS = ("report", "search", "train")
OPEN = 64  # blocks that still have room for a last piece
LONG = 4  # whole blocks of a document of which little is lost where its last piece fills no block
LONGEST_CONTEXT = 2**17
FEWEST = len(SPLITS)


@dataclass(frozen=True, eq=False)
class Document:
    """A text's tokens (n,), and at which byte of the text each ends (n,)."""

    name: str
    ids: Ids
    ends: Ends


Piece = tuple[Document, int, int]  # from which token to which


@dataclass(frozen=True, eq=False)
class Blocks:
    """Inputs and targets (n, T); how many tokens and bytes the targets are, (n,) each.

    sources: (n, 1) numbers of groups of documents; blocks of two groups have no document in common.
    """

    inputs: Tensor
    targets: Tensor
    tokens: Tensor
    bytes: Tensor
    sources: Tensor

    def ordered(self, order: Tensor) -> "Blocks":
        """The same in another order."""
        parts = (self.inputs, self.targets, self.tokens, self.bytes, self.sources)
        return Blocks(*(part[order] for part in parts))


def documents_of(texts: Iterator[tuple[str, str]], tokenizer: Tokenizer) -> list[Document]:
    """The documents, in their order, those left out that have no token or the text of one before them."""
    made: dict[bytes, Document] = {}
    for name, text in texts:
        document = Document(name, *tokenizer.split(text))
        if len(document.ids):
            made.setdefault(hashlib.sha256(document.ids.tobytes()).digest(), document)
    return list(made.values())


def split_documents(
    documents: Sequence[Document], *, seed: int, shares: Sequence[float]
) -> dict[str, list[Document]]:
    """Documents by split: in a random order until a share of all tokens is there, of `SPLITS` in turn.

    Raises UsageError for fewer documents than splits.
    """
    if len(documents) < FEWEST:
        raise UsageError(
            f"The text is {_count(len(documents))}: each of the splits train, search and report needs one.",
            "Give more files, or a .jsonl with a document a line; `separator` divides a .txt.",
        )
    order = np.random.default_rng(mixed_seed(seed, 0)).permutation(len(documents)).tolist()
    total = sum(len(document.ids) for document in documents)
    parts: dict[str, list[Document]] = {name: [] for name in SPLITS}
    for place, name in enumerate(SPLITS):
        left_for_others, taken = FEWEST - 1 - place, 0
        while len(order) > left_for_others and (
            name == SPLITS[-1] or taken < shares[place] * total or not parts[name]
        ):
            document = documents[order.pop(0)]
            parts[name].append(document)
            taken += len(document.ids)
    return parts


def packed(documents: Sequence[Document], *, context: int, begin: int, first: int = 0) -> Blocks:
    """Blocks of `context` tokens, in the order of the documents, those shared by last pieces at the end.

    first: the number of the first group of documents.
    """
    rows: list[list[Piece]] = []
    groups: list[int] = []
    shared: list[list[Piece]] = []  # last pieces by group; no other is put to those that are closed
    closed: set[int] = set()
    for document in documents:
        whole = len(document.ids) // context * context
        last, group = (document, whole, len(document.ids)), len(shared)
        if whole == len(document.ids) or whole >= LONG * context:
            closed.add(group)
        else:
            recent = range(max(0, len(shared) - OPEN), len(shared))
            fitting = (i for i in recent if i not in closed and _fits(shared[i], last, context))
            group = next(fitting, group)
        shared += [[]] if group == len(shared) else []
        shared[group] += [last] if whole < len(document.ids) else []
        rows += [[(document, start, start + context)] for start in range(0, whole, context)]
        groups += [group] * (whole // context)
    rows += [pieces for pieces in shared if pieces]
    groups += [group for group, pieces in enumerate(shared) if pieces]
    return _filled(rows, [first + group for group in groups], context=context, begin=begin)


def _fits(pieces: Sequence[Piece], piece: Piece, context: int) -> bool:
    return sum(stop - start for _, start, stop in (*pieces, piece)) <= context


def _filled(rows: Sequence[Sequence[Piece]], groups: Sequence[int], *, context: int, begin: int) -> Blocks:
    inputs: NDArray[np.int32] = np.full((len(rows), context), begin, dtype=np.int32)
    targets: NDArray[np.int32] = np.full((len(rows), context), NO_TARGET, dtype=np.int32)
    sizes = np.zeros((len(rows), 2), dtype=np.int64)
    for row, pieces in enumerate(rows):
        place = 0
        for document, start, stop in pieces:
            end = place + stop - start
            targets[row, place:end] = document.ids[start:stop]
            inputs[row, place + 1 : end] = document.ids[start : stop - 1]
            before = document.ends[start - 1] if start else 0
            sizes[row] += (stop - start, document.ends[stop - 1] - before)
            place = end
    counts, ids = torch.from_numpy(sizes), torch.tensor(list(groups), dtype=torch.int64)[:, None]
    return Blocks(torch.from_numpy(inputs), torch.from_numpy(targets), counts[:, 0], counts[:, 1], ids)


class TextBlocks:
    """Blocks of text in three splits, whose documents are apart; a data set without a name.

    `search` and `report` come in a random order, so that every first part is a sample of the whole.
    facts: what is told of them.
    """

    task = "language"

    def __init__(
        self,
        documents: Sequence[Document],
        tokenizer: Tokenizer,
        *,
        name: str,
        context: int,
        split_seed: int,
        shares: Sequence[float],
        version: str = "",
    ) -> None:
        """version: of the source, of which the digest is, too.  Raises UsageError for too little text."""
        self.name, self.input_shape, self.num_classes = name, (context,), tokenizer.vocabulary
        parts = split_documents(documents, seed=split_seed, shares=shares)
        self._blocks: dict[str, Blocks] = {}
        first = 0
        for place, (split, of_split) in enumerate(parts.items()):
            tokens = sum(len(document.ids) for document in of_split)
            if tokens < context:
                raise UsageError(
                    f"The {_count(len(of_split))} of split {split} have {tokens:,} tokens in all, fewer than "
                    f"a block of {context:,}.",
                    "Give more text, or a smaller context.",
                )
            blocks = packed(of_split, context=context, begin=tokenizer.begin, first=first)
            first += len(of_split)
            generator = torch.Generator().manual_seed(mixed_seed(split_seed, 1 + place))
            order = torch.randperm(len(blocks.inputs), generator=generator)
            self._blocks[split] = blocks.ordered(order)
        self.sizes = {split: len(self._blocks[split].inputs) for split in ("train", "search", "report")}
        self.digest = _digest(self._blocks, version)
        self.facts: dict[str, Any] = {
            "documents": {split: len(parts[split]) for split in self.sizes},
            "bytes": {split: int(self._blocks[split].bytes.sum()) for split in self.sizes},
        }

    def train_batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Blocks of the training split, drawn at random, and their targets."""
        blocks = self._blocks["train"]
        generator = torch.Generator().manual_seed(mixed_seed(seed, step))
        chosen = torch.randint(len(blocks.inputs), (size,), generator=generator)
        return blocks.inputs[chosen].long(), blocks.targets[chosen].long()

    def clean_batch(self, seed: int, step: int, size: int) -> Tensor:
        """The inputs of `train_batch`: nothing is done to text."""
        return self.train_batch(seed, step, size)[0]

    def batches(self, split: str, size: int, images: slice | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        blocks, which = self._blocks[split], images or slice(None)
        for inputs, targets in zip(
            blocks.inputs[which].split(size), blocks.targets[which].split(size), strict=True
        ):
            yield inputs.long(), targets.long()

    def sources(self, split: str) -> Tensor:
        """For each block the group of documents that it is of, (examples, 1)."""
        return self._blocks[split].sources

    def labels(self, split: str) -> Tensor:
        return self._blocks[split].targets.long()

    def counts(self, split: str) -> dict[str, Tensor]:
        """Tokens and bytes of each block's targets, (examples,) each."""
        return {"tokens": self._blocks[split].tokens, "bytes": self._blocks[split].bytes}


def _digest(blocks: dict[str, Blocks], version: str) -> str:
    whole = hashlib.sha256(version.encode())
    for split in SPLITS:
        one = blocks[split]
        for part in (one.inputs, one.targets, one.bytes, one.sources):
            whole.update(str(tuple(part.shape)).encode())
            whole.update(part.numpy().tobytes())
    return whole.hexdigest()


def _count(documents: int) -> str:
    return f"{documents} document{'' if documents == 1 else 's'}"
