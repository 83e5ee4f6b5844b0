"""What several tests of training begin with."""

import pytest
from students import sampled  # pyright: ignore

from imagen_video.spec import GuidanceSpec
from imagen_video.stage import Stage


@pytest.fixture
def base(tiny) -> Stage:
    return sampled(tiny.stages[0], GuidanceSpec(weight=3.0))
