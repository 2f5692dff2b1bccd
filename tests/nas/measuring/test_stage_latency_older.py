"""Predictors that another version of this program has saved."""

import numpy as np

from nas import jobs
from nas.measuring.latency import stored_predictor
from nas.spaces.job_space import space_of
from nas.store import Store


def test_a_predictor_of_another_version_is_fitted_again_to_the_same_measurements(tiny_copy):
    with Store.open(tiny_copy) as store:
        job = store.jobs()[0]
        space, device = space_of(store, job), store.devices()[0]
        arch = space.architecture(store.subnets(job)[0].architecture)
        before = stored_predictor(store, job, space, device).predict(space.encode([arch]))
        row = store.predictor(job, device.id)
        with store.acquire(job) as lease:
            older = row.state | {"version": 0, "model": {}}
            store.put_predictor(lease, device_id=device.id, kind=row.kind, state=older, score=row.score)
        after = stored_predictor(store, job, space, device).predict(space.encode([arch]))
        assert np.allclose(after, before)
        assert jobs.predict(store, job, arch.to_dict())["latency"]["predicted_ms"] == after[0][0]
