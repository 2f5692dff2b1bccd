"""The pool of processes: what it returns is what one process would have computed, in the order asked for."""

import torch

import nas
from nas import datasets, extraction
from nas.artifacts import verified
from nas.evaluation import EvaluationPool, EvaluationSetup
from search_spaces import Architecture, SearchSpace
from supernet._base import Supernet


def setup(job: nas.JobHandle, space: SearchSpace) -> EvaluationSetup:
    return EvaluationSetup(
        family=space.family,
        space_options=dict(space.options),
        weights=verified(job.store, job.store.artifacts(job.job, "supernet")[-1]),
        data_name="digits",
        data_options={},
        torch_device="cpu",
        threads=1,
    )


def alone(net: Supernet, arch: Architecture, split: str, images: slice) -> list[bool]:
    ((x, labels),) = datasets.build("digits").batches(split, 1000, images)
    with torch.inference_mode():
        return (net.extract(arch)(x).argmax(dim=1) == labels).tolist()


def test_the_pool_is_as_one_process(tiny_job: nas.JobHandle):
    net = extraction.load_supernet(tiny_job.store, tiny_job.job)
    archs = net.space.decode(net.space.all_codes())[::-9]
    assert len(archs) > 6
    with EvaluationPool(setup(tiny_job, net.space), workers=2) as pool:
        for split, images in (("search", slice(30, 290)), ("report", slice(None))):
            found = [hits.tolist() for hits in pool.correct(archs, split, images)]
            assert found == [alone(net, arch, split, images) for arch in archs]
            assert len({sum(hits) for hits in found}) > 1
        (one,), (same, *_) = pool.correct(archs[:1], "search"), pool.correct(archs, "search")
        assert len(one) == 300
        assert (one == same).all()
