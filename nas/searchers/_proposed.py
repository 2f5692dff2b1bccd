"""What a study has proposed so far, without reading all of its trials for each new one."""

import threading
import weakref
from collections.abc import Mapping

from optuna.study import Study
from optuna.trial import FrozenTrial

from search_spaces import Architecture, SearchSpace

ONE_AT_A_TIME = threading.RLock()  # answers to a study that is optimised by several threads


class Proposed:
    """The architectures of a study's trials. A trial's parameters never change once all are there.

    Until then a trial counts as what was answered (`note`): Optuna writes parameters down one by one.

    codes: the bytes of the codes of each, by the number of its trial.
    numbers: the number of the (first) trial of each, by these bytes.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._names = frozenset(choice.name for choice in space.choices)
        self._of: weakref.ref[Study] | None = None
        self._forget()

    def __reduce__(self) -> tuple[type["Proposed"], tuple[SearchSpace]]:
        """Pickled (by Ray Tune, with a sampler), it has read nothing: its study will be another object."""
        return Proposed, (self._space,)

    def _forget(self) -> None:
        self.codes: dict[int, bytes] = {}
        self.numbers: dict[bytes, int] = {}
        self._seen: dict[Architecture, None] = {}
        self._read, self._open = 0, list[int]()

    def before(self, study: Study, trial: FrozenTrial) -> Mapping[Architecture, None]:
        """Those of all other trials, in order (a set's differs from process to process).

        One study is always answered with the same, growing mapping.
        """
        if self._of is None or self._of() is not study:
            self._of = weakref.ref(study)
            self._forget()
        trials = study.get_trials(deepcopy=False)
        unread, self._open = [*self._open, *range(self._read, len(trials))], []
        self._read = len(trials)
        for place in unread:
            other = trials[place]
            if other.number != trial.number and other.params.keys() >= self._names:
                values = {choice.name: other.params[choice.name] for choice in self._space.choices}
                self._add(other.number, self._space.architecture(values))
            elif not other.state.is_finished():
                self._open.append(place)
        return self._seen

    def note(self, trial: FrozenTrial, arch: Architecture) -> None:
        """What is being answered; `before` has been asked about the same trial."""
        self._add(trial.number, arch)

    def _add(self, number: int, arch: Architecture) -> None:
        key = self._space.encode([arch])[0].tobytes()
        self._seen[arch] = None
        self.codes[number] = key
        self.numbers.setdefault(key, number)
