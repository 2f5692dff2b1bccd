"""The pool of processes: what it returns is what one process would have computed, in the order asked for."""

import pytest
import torch

import nas
from nas import datasets, extraction
from nas.artifacts import verified
from nas.evaluation import EvaluationPool, EvaluationSetup
from search_spaces import Architecture, SearchSpace
from supernet._base import Supernet
from supernet._evaluate import Quality, quality


def setup(job: nas.JobHandle, space: SearchSpace, *, images: int | None) -> EvaluationSetup:
    return EvaluationSetup(
        family=space.family,
        space_options=dict(space.options),
        weights=verified(job.store, job.store.artifacts(job.job, "supernet")[-1]),
        data_name="digits",
        data_options={},
        torch_device="cpu",
        threads=1,
        images=images,
    )


def alone(net: Supernet, arch: Architecture, split: str, images: int) -> Quality:
    (x, labels), *_ = datasets.build("digits").batches(split, images)
    with torch.inference_mode():
        return quality(net.extract(arch)(x).argmax(dim=1) == labels)


def test_the_pool_is_as_one_process(tiny_job: nas.JobHandle):
    net = extraction.load_supernet(tiny_job.store, tiny_job.job)
    archs = net.space.decode(net.space.all_codes())[::-9]
    assert len(archs) > 6
    with EvaluationPool(setup(tiny_job, net.space, images=50), workers=2) as pool:
        for split, images in (("search", 50), ("report", 300)):
            found = pool.evaluate(archs, split)
            expected = [alone(net, arch, split, images) for arch in archs]
            assert [q.count for q in found] == [images] * len(archs)
            assert [q.value for q in found] == pytest.approx([q.value for q in expected], abs=1e-12)
            assert [q.stderr for q in found] == pytest.approx([q.stderr for q in expected])
            assert len({q.value for q in found}) > 1
        assert pool.evaluate(archs[:1], "search") == pool.evaluate(archs, "search")[:1]
