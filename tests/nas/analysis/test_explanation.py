"""What choices are worth: found again in qualities and latencies that are known functions of them."""

import json

import pytest
from made_evaluations import SPACE, evaluated_job, milliseconds, truth

from nas.analysis.explanation import TOGETHER, Change, Explanation, explain
from nas.store import Store
from search_spaces import Architecture
from search_spaces.errors import NotFoundError, UsageError

SUBNET = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": [2, 4]}


def arch(**values: object) -> Architecture:
    return SPACE.architecture(SUBNET | values)


def change(explained: Explanation, choice: str, after: object) -> Change:
    return next(one for one in explained.changes if (one.choice, one.after) == (choice, after))


@pytest.fixture(scope="module")
def explained_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('explained') / 'store.sqlite'}"
    with Store.open(url) as store:
        evaluated_job(store, "a")
    return url


@pytest.fixture(scope="module")
def explained(explained_file: str) -> Explanation:
    with Store.open(explained_file, read_only=True) as store:
        return explain(store, store.job("a"), SUBNET)


def test_each_choice_is_changed_by_one_step_in_both_directions(explained: Explanation) -> None:
    steps = [(one.choice, one.before, one.after) for one in explained.changes]
    assert steps == [
        ("embed_dim", 32, 16),
        ("embed_dim", 32, 64),
        ("depth", 2, 1),
        ("depth", 2, 3),
        ("num_heads", 2, 4),
        ("mlp_ratio.0", 2, 1),
        ("mlp_ratio.0", 2, 4),
        ("mlp_ratio.1", 4, 2),
    ]
    facts = (explained.job, explained.metric, explained.device, explained.evaluations)
    assert facts == ("a", "accuracy", "cpu", 80)
    assert json.loads(json.dumps(explained.to_dict()))["subnet"]["key"] == arch().key


def test_a_layer_that_is_added_is_like_the_one_before_it(explained: Explanation) -> None:
    deeper = change(explained, "depth", 3).to
    assert deeper is not None
    assert deeper.architecture["mlp_ratio"] == [2, 4, 4]
    shallower = change(explained, "depth", 1).to
    assert shallower is not None
    assert shallower.key == arch(depth=1, mlp_ratio=[2]).key


def test_what_a_step_changes_is_what_the_truth_says(explained: Explanation) -> None:
    start = SPACE.encode([arch()])
    for one in explained.changes:
        assert one.to is not None
        assert one.quality is not None
        assert one.quality_std is not None
        codes = SPACE.encode([SPACE.architecture(one.to.architecture)])
        gain = float(truth(codes)[0] - truth(start)[0])
        assert abs(one.quality - gain) < max(0.01, 3 * one.quality_std)
        assert one.latency_ms == pytest.approx(
            float(milliseconds(codes)[0] - milliseconds(start)[0]), abs=0.01
        )


def test_the_neighbours_worth_a_look(explained: Explanation) -> None:
    # Neither heads nor FFNs count for quality: the step that saves most among them is the cheapest.
    assert explained.cheapest is not None
    savings = {c.words: c.latency_ms or 0.0 for c in explained.changes if c.choice.startswith("mlp_ratio")}
    assert explained.cheapest.words == min(savings, key=lambda words: savings[words]) == "mlp_ratio.1 4 → 2"
    if explained.best is not None:
        assert explained.best.to is not None
        assert explained.best.to.latency_ms <= 1.05 * explained.subnet.latency_ms
        assert (explained.best.quality or 0.0) > 0


def test_the_difference_of_two_subnets_choice_by_choice(explained_file: str) -> None:
    other = arch(embed_dim=64, depth=1, mlp_ratio=[4])
    with Store.open(explained_file, read_only=True) as store:
        told = explain(store, store.job("a"), SUBNET, other.to_dict())
    assert [one.words for one in told.changes] == [
        "embed_dim 32 → 64",
        "depth 2 → 1",
        "mlp_ratio.0 2 → 4",
        "mlp_ratio.1 4 → –",
        TOGETHER,
    ]
    wider, shallower, _, gone, together = told.changes
    assert wider.quality == pytest.approx(0.1, abs=0.01)
    assert shallower.quality == pytest.approx(-0.05, abs=0.01)
    assert (gone.quality, gone.latency_ms, gone.to) == (None, None, None)  # it goes with the depth
    assert told.other is not None
    assert together.quality == pytest.approx(0.05, abs=0.01)
    assert (together.to and together.to.key) == told.other.key == other.key
    assert together.to is not None
    assert together.to.quality == pytest.approx(told.other.quality)
    assert len(told.to_pandas()) == 4
    assert "cheapest" not in told.to_dict()


def test_what_cannot_be_explained(store: Store) -> None:
    job = evaluated_job(store, "a")
    with pytest.raises(NotFoundError, match="no subnet 'zzz'"):
        explain(store, job, "zzz")
    with pytest.raises(UsageError, match="Both subnets are"):
        explain(store, job, SUBNET, SUBNET)
    with pytest.raises(UsageError, match="embed_dim = 33"):
        explain(store, job, SUBNET | {"embed_dim": 33})
    with pytest.raises(NotFoundError, match="no latency predictor for 'pi'"):
        explain(store, job, SUBNET, device="pi")
    with pytest.raises(NotFoundError, match="has evaluated 5 subnets; an accuracy predictor needs 10"):
        explain(store, evaluated_job(store, "few", count=5), SUBNET)
    with pytest.raises(NotFoundError, match="no latency predictor yet"):
        explain(store, evaluated_job(store, "untimed", predictor=False), SUBNET)
    with pytest.raises(NotFoundError, match="has not begun"):
        explain(store, evaluated_job(store, "unbegun", space=False), SUBNET)
