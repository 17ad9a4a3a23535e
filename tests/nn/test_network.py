"""The loop, the way back, taps and insertion, on networks small enough to check by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.nn.network import Node, backward, insert_after, run, untouched


def double(x):
    return 2 * x, lambda g: (2 * g,)


def add(a, b):
    return a + b, lambda g: (g, g)


def multiply(a, b):
    return a * b, lambda g: (g * b, g * a)


X = np.array([5.0, -1.0])


def test_a_value_read_twice_collects_both_gradients():
    net = [Node("d", double, ("x",)), Node("y", add, ("d", "x"))]
    assert backward(run(net, {"x": X}), {"y": np.ones(2)})["x"].tolist() == [3.0, 3.0]


def test_a_value_read_twice_by_one_node_collects_both_gradients():
    net = [Node("y", multiply, ("x", "x"))]
    assert np.array_equal(backward(run(net, {"x": X}), {"y": np.ones(2)})["x"], 2 * X)


def test_shared_gradient_arrays_are_not_accumulated_in_place():
    """`add` hands one array to both inputs; adding to it in place would corrupt the other."""
    net = [Node("s", add, ("a", "b")), Node("t", add, ("s", "a"))]
    g = backward(run(net, {"a": X, "b": X}), {"t": np.ones(2)})
    assert g["a"].tolist() == [2.0, 2.0]
    assert g["b"].tolist() == g["s"].tolist() == g["t"].tolist() == [1.0, 1.0]


def test_unused_branches_get_no_gradient():
    net = [Node("y", double, ("x",)), Node("dead", double, ("x",))]
    g = backward(run(net, {"x": X, "idle": X}), {"y": np.ones(2)})
    assert set(g) == {"x", "y"}
    assert g["x"].tolist() == [2.0, 2.0]


def test_several_seeds_add_up():
    net = [Node("h", double, ("x",)), Node("y", double, ("h",))]
    g = backward(run(net, {"x": X}), {"y": np.ones(2), "h": np.ones(2)})
    assert g["x"].tolist() == [6.0, 6.0]


@given(st.lists(st.sampled_from(["double", "add", "multiply"]), min_size=1, max_size=6), st.data())
def test_gradient_of_a_random_polynomial_network_is_its_derivative(kinds, data):
    """Any directed graph of these three, read anywhere, against a complex step (exact)."""
    nodes, names = [], ["a", "b"]
    ops = {"double": double, "add": add, "multiply": multiply}
    for i, kind in enumerate(kinds):
        inputs = tuple(data.draw(st.sampled_from(names)) for _ in range(1 + (kind != "double")))
        nodes.append(Node(f"n{i}", ops[kind], inputs))
        names.append(f"n{i}")
    point = {"a": np.array(0.7), "b": np.array(-0.6)}
    last = nodes[-1].name
    g = backward(run(nodes, point), {last: 1.0})
    for name in point:
        moved = run(nodes, {**point, name: point[name] + 1e-30j}).values[last].imag / 1e-30
        assert np.isclose(g.get(name, 0.0), moved, rtol=1e-12, atol=1e-12)


def test_tap_sees_every_value_once_in_order():
    seen = []
    net = [Node("h", double, ("x",)), Node("y", add, ("h", "w"))]
    run(net, {"x": X, "w": X}, tap=lambda name, value: (seen.append(name), value)[1])
    assert seen == ["x", "w", "h", "y"]


def test_what_a_tap_returns_is_what_the_network_goes_on_with():
    net = [Node("h", double, ("x",)), Node("y", double, ("h",))]
    trace = run(net, {"x": X}, tap=lambda name, v: np.zeros_like(v) if name == "h" else v)
    assert trace.values["h"].tolist() == trace.values["y"].tolist() == [0.0, 0.0]


def test_a_quantizing_tap_is_the_straight_through_estimator():
    """Forward uses rint(x); backward is that of the network without it, at rint(x)."""
    net = [Node("y", multiply, ("x", "w"))]
    x, w = np.array([0.6, 2.4]), np.array([3.0, 5.0])
    trace = run(net, {"x": x, "w": w}, tap=lambda name, v: np.rint(v) if name == "x" else v)
    g = backward(trace, {"y": np.ones(2)})
    assert trace.values["y"].tolist() == [3.0, 10.0]
    assert np.array_equal(g["x"], w)
    assert np.array_equal(g["w"], np.rint(x))


def test_arguments_are_left_alone():
    values = {"x": X.copy()}
    net = [Node("y", double, ("x",))]
    trace = run(net, values)
    seeds = {"y": np.ones(2)}
    backward(trace, seeds)
    assert set(values) == {"x"}
    assert set(seeds) == {"y"}
    assert np.array_equal(values["x"], X)


def test_untouched_returns_the_same_object():
    assert untouched("x", X) is X


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_python_seed_takes_the_dtype_of_the_value(dtype):
    trace = run([Node("y", double, ("x",))], {"x": np.array(1, dtype)})
    assert backward(trace, {"y": 1.0})["x"].dtype == dtype


def test_insertion_after_a_parameter_reroutes_all_readers():
    net = [Node("h", multiply, ("x", "w")), Node("y", multiply, ("h", "w"))]
    new = insert_after(net, "w", Node("w.q", double, ("w",)))
    assert [n.inputs for n in new] == [("w",), ("x", "w.q"), ("h", "w.q")]
    assert [n.inputs for n in net] == [("x", "w"), ("h", "w")]
    g = backward(run(new, {"x": X, "w": X}), {"y": np.ones(2)})
    assert np.allclose(g["w"], 2 * 2 * (2 * X) * X)         # d/dw of x (2w)**2


def test_insertion_after_a_node_leaves_earlier_readers():
    net = [Node("h", double, ("x",)), Node("y", add, ("h", "x")), Node("z", add, ("y", "h"))]
    new = insert_after(net, "h", Node("h.q", double, ("h",)))
    assert [n.name for n in new] == ["h", "h.q", "y", "z"]
    assert [n.inputs for n in new] == [("x",), ("h",), ("h.q", "x"), ("y", "h.q")]


def test_errors_say_what_is_wrong():
    net = [Node("y", double, ("x",))]
    with pytest.raises(ValueError, match=r"known names; got 'x' in 'y'"):
        run(net, {})
    with pytest.raises(ValueError, match=r"each name once; got 'y' again"):
        run([*net, *net], {"x": X})
    with pytest.raises(ValueError, match=r"each name once; got 'y' again"):
        run(net, {"x": X, "y": X})
    with pytest.raises(ValueError, match=r"keep the shape \(2,\) of 'x'; got \(1,\)"):
        run(net, {"x": X}, tap=lambda name, v: v[:1])
    trace = run(net, {"x": X})
    with pytest.raises(ValueError, match="name values of the trace; got 'z'"):
        backward(trace, {"z": 1.0})
    with pytest.raises(ValueError, match=r"gradient of 'y' must have shape \(2,\); got \(\)"):
        backward(trace, {"y": 1.0})
    wrong = run([Node("y", lambda x: (x, lambda g: (g[:1],)), ("x",))], {"x": X})
    with pytest.raises(ValueError, match=r"gradient of 'x' must have shape \(2,\); got \(1,\)"):
        backward(wrong, {"y": X})
    short = run([Node("y", lambda x: (x, lambda g: ()), ("x",))], {"x": X})
    with pytest.raises(ValueError, match="must return 1 gradients; got 0"):
        backward(short, {"y": X})
    with pytest.raises(ValueError, match="occur in the network; got 'q'"):
        insert_after(net, "q", Node("r", double, ("q",)))
    with pytest.raises(ValueError, match="new name; got 'y'"):
        insert_after(net, "x", Node("y", double, ("x",)))
