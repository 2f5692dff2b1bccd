"""Least-squares stitching layers: against NumPy's solver, in parts, shared, and against random ones."""

import numpy as np
import pytest
import torch
from torch import Tensor

import search_spaces
import supernet
from nas import datasets
from search_spaces import Architecture
from search_spaces.shapes.stitches import Cut
from supernet.evaluation.scores import quality, scored
from supernet.families.stitching import Stitching
from supernet.least_squares import NormalEquations, solved
from supernet.training.recipe import Recipe
from supernet.training.strategies import SinglePath
from supernet.training.trainer import Training

CUT = Cut(0, 1, 0, 1)


def features(rows: int, n_in: int, n_out: int) -> tuple[Tensor, Tensor]:
    """A noisy affine map of features with one massive channel, as vision transformers have."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(rows, n_in))
    a[:, 0] *= 300
    b = a @ rng.normal(size=(n_in, n_out)) + rng.normal(size=n_out) + 0.01 * rng.normal(size=(rows, n_out))
    return torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32)


def solve(a: Tensor, b: Tensor, *, batches: int = 1) -> tuple[Tensor, Tensor]:
    equations = NormalEquations()
    for part_a, part_b in zip(a.chunk(batches), b.chunk(batches), strict=True):
        equations.add([CUT], {(0, 0): part_a}, {(1, 1): part_b})
    return equations.solve(CUT)


def test_the_solution_is_numpys() -> None:
    a, b = features(500, 12, 7)
    weight, bias = solve(a, b)
    ones = np.concatenate([a.double().numpy(), np.ones((500, 1))], axis=1)
    expected = np.linalg.lstsq(ones, b.double().numpy(), rcond=None)[0]
    error = (a.double() @ weight.T + bias - b).square().mean().sqrt()
    best = np.sqrt(np.square(ones @ expected - b.double().numpy()).mean())
    assert weight.dtype == torch.float64
    assert weight.shape == (7, 12)
    assert float(error) < 1.01 * best


def test_any_division_into_batches_gives_the_same() -> None:
    a, b = features(600, 6, 5)
    for batches in (2, 5, 600):
        for one, other in zip(solve(a, b), solve(a, b, batches=batches), strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_fewer_rows_than_channels_are_no_problem() -> None:
    a, b = features(4, 9, 3)
    weight, bias = solve(a, b)
    assert weight.isfinite().all()
    assert (a.double() @ weight.T + bias - b).abs().max() < 1e-2 * b.abs().max()


def test_cuts_of_one_front_block_share_its_gram_matrix() -> None:
    equations = NormalEquations()
    a, b = features(50, 4, 3)
    cuts = [CUT, Cut(0, 1, 0, 2)]
    equations.add(cuts, {(0, 0): a}, {(1, 1): b, (1, 2): 2 * b})
    assert len(equations._gram) == 1
    assert torch.allclose(2 * equations.solve(CUT)[0], equations.solve(cuts[1])[0])


def test_a_layer_that_serves_several_cuts_is_the_mean_of_their_solutions() -> None:
    space = search_spaces.get("stitching", scheme="v1")
    net = supernet.build(space)
    assert isinstance(net, Stitching)
    x = [net.example_input(32)]
    anchors = list(net.shared.anchors.eval())
    cuts = [Cut(0, 1, 0, 0), Cut(0, 1, 0, 1), Cut(0, 1, 1, 1)]
    apart = solved(anchors, [[cut] for cut in cuts], x)
    ((weight, bias),) = solved(anchors, [cuts], x)
    assert torch.allclose(weight, torch.stack([w for w, _ in apart]).mean(dim=0))
    assert torch.allclose(bias, torch.stack([b for _, b in apart]).mean(dim=0))


@torch.no_grad()
def test_a_layer_between_equal_anchors_is_the_identity() -> None:
    anchors = [{"embed_dim": 8, "depth": 2, "num_heads": 2}] * 2
    net = supernet.build(search_spaces.get("stitching", anchors=anchors, originals=False))
    assert isinstance(net, Stitching)
    net.load_anchors(dict.fromkeys(range(2), net.shared.anchors[0].state_dict()))
    net.train().adapt([net.example_input(64) for _ in range(2)])
    assert torch.allclose(net.shared.stitches[0].merged(), torch.eye(8), atol=1e-2)


@pytest.fixture(scope="module")
def joined() -> Stitching:
    """Two nets that were trained apart on digits, for a few seconds each."""
    data = datasets.build("digits")
    numbers = {"depth": 3, "image_size": (8, 8), "in_chans": 1, "num_classes": 10, "head_dim": 8}
    nets = []
    for dim, heads in ((16, 2), (32, 4)):
        alone = {"embed_dim": (dim,), "num_heads": (heads,), "mlp_ratio": (2,), **numbers, "depth": (3,)}
        net = supernet.build(search_spaces.get("matformer", **alone), seed=dim)
        training = Training(
            net, SinglePath(), Recipe(steps=250, batch_size=64, warmup=30, largest_first=0.0), seed=dim
        )
        list(training.run(lambda step: data.train_batch(0, step, 64)))
        nets.append(training.weights())
    anchors = [{"embed_dim": dim, "num_heads": heads, "mlp_ratio": 2} for dim, heads in ((16, 2), (32, 4))]
    stitched = supernet.build(search_spaces.get("stitching", anchors=anchors, **numbers))
    assert isinstance(stitched, Stitching)
    stitched.load_anchors(dict(enumerate(nets)))
    return stitched


def accuracies(net: Stitching) -> dict[Architecture, float]:
    archs = net.space.decode(net.space.all_codes())
    hits = scored(net, archs, datasets.build("digits").batches("search", 256))
    return {arch: quality(found).value for arch, found in hits.items()}


def test_untrained_stitches_are_far_better_than_random_ones(joined: Stitching) -> None:
    data = datasets.build("digits")
    random = accuracies(joined)
    joined.adapt([data.clean_batch(0, step, 64) for step in range(8)])
    fitted = accuracies(joined)
    anchors = [joined.space.preset(f"anchor{i}") for i in range(2)]
    assert all(fitted[anchor] == random[anchor] > 0.8 for anchor in anchors)
    stitches = [arch for arch in fitted if arch not in anchors]
    assert np.mean([random[arch] for arch in stitches]) < 0.3
    assert np.mean([fitted[arch] for arch in stitches]) > 0.5
    assert all(fitted[arch] > random[arch] + 0.2 for arch in stitches)
