"""A sampler with quantizers for each step; experiment A23 of timestep-aware calibration."""

from functools import partial

import numpy as np
import pytest

from refquant.apply.calibrate import plan
from refquant.apply.loop import Looped, observe_steps, per_step
from refquant.apply.simulate import input_names, static
from refquant.calibration.statistics import Histogram, Range
from refquant.calibration.timesteps import evenly, joined, range_of_parts
from refquant.nn.denoiser import predict_noise, sample, sampling_steps, trained_denoiser
from refquant.quantizers.uniform import asymmetric

MODEL = trained_denoiser()
NAMES = input_names(MODEL.nodes)
PARTS = [64, 32]                # pixels and time enter side by side


def run(noise, looped=None, count=50):
    return sample(MODEL, noise, count=count, **(looped._asdict() if looped else {}))


def observed(noise, of=Range.of, count=50, names=NAMES):
    return observe_steps(
        lambda tap, watch: sample(MODEL, noise, count=count, tap=tap, watch=watch),
        of, names=names)


def noise_of(seed, n=16):
    return np.random.default_rng(seed).standard_normal((n, 64), np.float32)


def of_range(bits):
    return lambda r: asymmetric(r.low, r.high, bits=bits)


def by_step(ranges, bits):
    """A plan for each step from the ranges of each name at each step."""
    steps = next(iter(ranges.values()))
    return {t: plan({name: seen[t] for name, seen in ranges.items()}, of_range(bits))
            for t in steps}


def for_all(ranges, steps, bits):
    """The same plan at all steps, from the ranges of some."""
    one = plan({name: joined(seen, steps) for name, seen in ranges.items()}, of_range(bits))
    return dict.fromkeys(next(iter(ranges.values())), one)


def test_every_step_and_name_is_seen_and_the_samples_are_untouched():
    noise = noise_of(0)
    made = []
    ranges = observe_steps(
        lambda tap, watch: made.append(sample(MODEL, noise, count=7, tap=tap, watch=watch)),
        Range.of, names=NAMES)
    assert list(ranges) == NAMES
    assert all(list(seen) == sampling_steps(7).tolist() for seen in ranges.values())
    assert np.array_equal(made[0], run(noise, count=7))


def test_what_is_seen_at_a_step_is_what_the_network_computes_there():
    noise, inside = noise_of(1), {}
    ranges = observed(noise, count=3)

    def look(t, x):
        def tap(name, value):
            inside[name, t] = Range.of(value)
            return value
        predict_noise(MODEL, x, t, tap=tap)

    sample(MODEL, noise, count=3, watch=look)
    for name in NAMES:
        for t, seen in ranges[name].items():
            assert seen == inside[name, t]


def test_the_joint_of_all_steps_is_the_range_of_the_run():
    noise, together = noise_of(2), {}

    def tap(name, value):
        if name in NAMES:
            now = Range.of(value)
            together[name] = together[name].merge(now) if name in together else now
        return value

    sample(MODEL, noise, count=5, tap=tap)
    for name, seen in observed(noise, count=5).items():
        assert joined(seen, seen) == together[name]


def test_batches_join_at_each_step_for_any_statistic_that_merges():
    noise = noise_of(3)
    of = partial(Histogram.of, bins=64)

    def twice(tap, watch):
        for half in (noise[:8], noise[8:]):
            sample(MODEL, half, count=4, tap=tap, watch=watch)

    parts, whole = observe_steps(twice, of, names=["fc1"]), observed(noise, of, 4, ["fc1"])
    for t, histogram in parts["fc1"].items():
        assert histogram.counts.sum() == whole["fc1"][t].counts.sum() == 16 * 256


def test_one_plan_at_every_step_is_static_quantization():
    noise, ranges = noise_of(4), observed(noise_of(5), count=6)
    plans = for_all(ranges, sampling_steps(6), bits=4)
    want = sample(MODEL, noise, count=6, tap=static(next(iter(plans.values()))))
    assert np.array_equal(run(noise, per_step(plans), count=6), want)
    assert not np.array_equal(want, run(noise, count=6))


def test_each_step_uses_its_own_plan_again_and_again():
    ranges = observed(noise_of(6), count=4)
    looped = per_step(by_step(ranges, bits=5))
    first = run(noise_of(7), looped, count=4)
    assert np.array_equal(first, run(noise_of(7), looped, count=4))
    t = int(sampling_steps(4)[2])
    looped.watch(t, noise_of(7))
    x = noise_of(8, 3)
    assert np.array_equal(looped.tap("fc1", x), static(by_step(ranges, 5)[t])("fc1", x))


def test_with_many_bits_the_samples_are_the_float_ones():
    """Half a step of 16 bits, amplified along the chain; the pixels have a range of 2."""
    noise = noise_of(9)
    plans = by_step(observed(noise), bits=16)
    assert np.abs(run(noise, per_step(plans)) - run(noise)).max() < 0.02


def test_a_step_without_a_plan_and_a_tap_without_a_step_are_refused():
    looped = per_step({5: {}})
    assert isinstance(looped, Looped)
    with pytest.raises(ValueError, match="`watch` must be given to the sampler"):
        looped.tap("x", np.zeros(1))
    with pytest.raises(ValueError, match="`plans` must hold every step of the sampler; got none"):
        run(noise_of(0, 1), looped, count=2)
    with pytest.raises(ValueError, match="`watch` must be given"):
        observe_steps(lambda tap, watch: tap("x", np.zeros(1)), Range.of, names=["x"])
    with pytest.raises(ValueError, match="`names` must occur in the network; got 'fc9'"):
        observed(noise_of(0, 1), count=1, names=["fc9"])


def mse(noise, want, plans):
    """Squared error per pixel against the float run from the same noise."""
    return float(np.square(run(noise, per_step(plans)) - want).mean())


@pytest.fixture(scope="module")
def experiment():
    """Errors of the drawn images, 200 from each of three seeds; ranges from 256 others."""
    errors: dict = {}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        shown, noise = (rng.standard_normal((n, 64), np.float32) for n in (256, 200))
        whole = observed(shown)
        parts = whole | observed(shown, partial(range_of_parts, sizes=PARTS), names=["x"])
        steps, want = sampling_steps(50), run(noise)
        spread = evenly(steps, 10)
        settings = {
            "last 8": for_all(whole, steps[-5:], 8), "spread 8": for_all(whole, spread, 8)}
        for bits in (4, 5):
            settings[f"joint spread {bits}"] = for_all(whole, spread, bits)
            settings[f"joint each {bits}"] = by_step(whole, bits)
            settings[f"split spread {bits}"] = for_all(parts, spread, bits)
            settings[f"split each {bits}"] = by_step(parts, bits)
        for name, plans in settings.items():
            errors.setdefault(name, []).append(mse(noise, want, plans))
    return {name: np.array(e) for name, e in errors.items()}


def test_a23_calibrating_on_the_last_steps_alone_ruins_the_images(experiment):
    """Measured 0.23 to 0.28 against 0.00005 to 0.00008: three thousandfold and more."""
    assert np.all(experiment["last 8"] >= 50 * experiment["spread 8"])
    assert np.all(experiment["last 8"] > 0.1)


def test_a23_a_range_for_each_step_with_pixels_and_time_apart(experiment):
    """Measured, seed by seed: 5 bits 0.68, 0.67, 0.73; 4 bits 0.57, 0.48, 0.54."""
    for bits in (4, 5):
        assert np.all(experiment[f"split each {bits}"] <= 0.75 * experiment[f"split spread {bits}"])


def test_a23_a_range_for_each_step_of_the_joined_input(experiment):
    """At 4 bits 0.67, 0.61, 0.67: A23's 0.75 on each seed.

    At 5 bits 0.88, 0.71, 0.78, and whether the mean meets 0.75 is up to the network: from 500
    images, denoisers trained by the same script from seeds 0 (which ships) to 3 have 0.78, 0.73,
    0.73 and 0.81. The time stays in [-1, 1] when the pixels shrink, and one step for both cannot
    follow them; with a grid for each, as above, the same network has 0.65 to 0.73 on five seeds,
    and all but 0.04 of it is owed to the ranges of the pixels.
    """
    ratio = {bits: experiment[f"joint each {bits}"] / experiment[f"joint spread {bits}"]
             for bits in (4, 5)}
    assert np.all(ratio[4] <= 0.75)
    assert np.all(ratio[5] < 0.9)
    assert ratio[5].mean() < 0.82
    # The remedy, against the baseline of the joined input.
    assert np.all(experiment["split each 5"] <= 0.75 * experiment["joint spread 5"])
