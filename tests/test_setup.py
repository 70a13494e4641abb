"""When a run ends, and when its events are due."""

import pytest

from segjax import config as configs
from segjax import setup


@pytest.mark.parametrize(
    "length, every, wanted",
    [
        ({"steps": 7}, 3, {3, 6, 7}),
        ({"steps": 7}, None, {7}),
        # An epoch is two and a half steps, the run six and a quarter.
        ({"epochs": 2.5}, 1, {3, 5, 7}),
        ({"epochs": 2.5}, 0.5, {2, 3, 4, 5, 7}),
        ({"epochs": 2.5}, None, {7}),
    ],
)
def test_events_are_due_at_the_ends_of_steps_or_epochs(length, every, wanted):
    config = configs.default()
    config.data.batch_size = 8
    config.update(length)
    assert setup.num_steps(config, 20) == 7
    assert setup.event_steps(config, every, 20) == wanted
