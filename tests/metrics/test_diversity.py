import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from imagen_video.metrics.diversity import coverage_of, kernel_distance, vendi


class Given(torch.nn.Module):
    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def rows(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kernel_distance_equals_a_librarys():
    library = KernelInceptionDistance(Given(), subsets=1, subset_size=40, normalize=True)
    real, fake = rows(40, 0), rows(40, 1, 0.5)
    for some, is_real in ((real, True), (fake, False)):
        library.update(some.view(-1, 3, 2, 2), real=is_real)
    assert kernel_distance(fake, real) == pytest.approx(library.compute()[0].item(), rel=1e-4)


def test_clips_of_which_nobody_knows_what_they_show_are_all_compared():
    fake, real = rows(30, 0), rows(30, 1)
    shown = [f"prompt {i}" for i in range(30)]
    assert kernel_distance(fake, real, (shown, [""] * 30)) == kernel_distance(fake, real)
    assert kernel_distance(fake, real, (["", *shown[1:]], shown)) != kernel_distance(fake, real)


def test_kernel_distance_is_a_number_where_all_reference_clips_show_the_same():
    fake, real = rows(6, 0), rows(6, 1)
    found = kernel_distance(fake, real, ([f"prompt {i}" for i in range(6)], ["a street"] * 6))
    assert found == kernel_distance(fake, real)


def test_kernel_distance_of_exchanged_prompts_is_further_from_0_than_of_right_ones():
    """Below 0, so nearer to 0 is better, not less."""
    middles = 3 * rows(8, 2)
    shown = [f"prompt {i}" for i in range(8)]
    right = kernel_distance(middles + rows(8, 0), middles + rows(8, 1), (shown, shown))
    others = [*shown[1:], shown[0]]
    exchanged = kernel_distance(middles + rows(8, 0), middles + rows(8, 1), (others, shown))
    assert exchanged < -10 * abs(right)


def test_kernel_distance_of_one_distribution_is_0_on_average():
    found = [kernel_distance(rows(30, seed), rows(30, seed + 100)) for seed in range(40)]
    apart = kernel_distance(rows(30, 0), rows(30, 1, 1.0))
    assert abs(sum(found) / 40) < 0.05 * apart
    assert min(found) < 0 < max(found)


def test_samples_that_repeat_one_real_thing_are_precise_and_cover_nothing():
    real = rows(100, 0)
    found = coverage_of(real[:1] + 1e-3 * rows(100, 1), real)
    assert found["precision"] == 1
    assert found["recall"] < 0.05
    assert found["coverage"] < 0.2


def test_the_real_distribution_is_precise_and_covered():
    found = coverage_of(rows(400, 1), rows(400, 0))
    assert found["density"] == pytest.approx(1, abs=0.1)  # its expectation
    assert found["coverage"] == pytest.approx(1 - 0.5**5, abs=0.05)  # for equally many samples
    assert found["precision"] == pytest.approx(found["recall"], abs=0.1)
    far = coverage_of(rows(100, 1, 100.0), rows(100, 0))
    assert far == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_coverage_by_counting():
    real = torch.tensor([[0.0], [1.0], [10.0]])
    samples = torch.tensor([[0.5], [5.0]])
    found = coverage_of(torch.cat([samples, samples[:1] + 20]), real, nearest=1)
    # Radii 1, 1 and 9 around 0, 1 and 10: 0.5 lies within two of them, 5 within one, 20.5 in none.
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["density"] == pytest.approx((2 + 1 + 0) / 3)
    assert found["coverage"] == 1


def test_vendi_counts_what_differs():
    assert vendi(torch.ones(8, 5)) == pytest.approx(1)
    assert vendi(torch.eye(7) * 3) == pytest.approx(7)
    assert vendi(torch.eye(4).repeat(5, 1)) == pytest.approx(4)


def test_too_few_are_named():
    with pytest.raises(ValueError, match="6 samples or more, got 4"):
        coverage_of(rows(4, 0), rows(9, 0))
    with pytest.raises(ValueError, match="2 samples or more, got 1"):
        kernel_distance(rows(9, 0), rows(1, 0))


def test_samples_of_a_list_of_prompts_are_not_nearer_than_its_true_clips():
    """Each set has every prompt once: without a word on that a perfect model is below 0."""
    prompts, told = 3 * rows(12, 0), [f"prompt {i}" for i in range(12)]
    few, plain = [], []
    for seed in range(40):
        fake, real = prompts + rows(12, seed + 1), prompts.repeat(2, 1) + rows(24, seed + 100)
        few.append(kernel_distance(fake, real, (told, told * 2)))
        plain.append(kernel_distance(fake, real))
    spread = torch.tensor(few).std().item() / 40**0.5
    assert abs(sum(few) / 40) < 3 * spread < 0.3 * -sum(plain) / 40
    apart = kernel_distance(prompts + rows(12, 0, 1.0), prompts + rows(12, 1), (told, told))
    assert apart > 10 * spread
    # Of one prompt all are of one distribution: nothing is left out.
    one = ["a"] * 12, ["a"] * 24
    assert kernel_distance(fake, real, one) == pytest.approx(kernel_distance(fake, real))
