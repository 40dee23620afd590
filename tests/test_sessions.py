"""ONNX files as components."""

import numpy as np
import pytest
import torch

from kit.sessions import OnnxSession
from loader.errors import InputError, WeightsCorruptError, WeightsError
from tests.onnx_bytes import FLOAT, FLOAT16, brightness_detector, classifier, model, node, tensor, value_info


def doubling(element: int = FLOAT) -> bytes:
    kind = np.float32 if element == FLOAT else np.float16
    return model(
        [node("Mul", ["x", "two"], "twice"), node("Add", ["x", "y"], "sum")],
        [tensor("two", np.array(2, kind))],
        [value_info("x", element, ["n", 3]), value_info("y", element, ["n", 3])],
        [value_info("twice", element, ["n", 3]), value_info("sum", element, ["n", 3])],
    )


@pytest.fixture
def file(tmp_path):
    def written(data: bytes, name: str = "net.onnx"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return written


def test_it_runs_by_name_and_by_position(file):
    session = OnnxSession(file(doubling()))
    assert session.inputs == {"x": (None, 3), "y": (None, 3)}
    assert list(session.outputs) == ["twice", "sum"]
    x, y = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    for outputs in (session.run({"y": y, "x": x}), session(torch.from_numpy(x), y)):
        assert np.array_equal(outputs[0], 2 * x)
        assert np.array_equal(outputs[1], x + 1)
        assert outputs[0].dtype == np.float32


def test_inputs_are_cast_to_what_the_file_asks_for(file):
    session = OnnxSession(file(doubling(FLOAT16)))
    assert session.run({"x": np.ones((1, 3)), "y": np.ones((1, 3))})[0].dtype == np.float16


def test_it_is_a_component_without_parameters(file):
    session = OnnxSession(file(doubling()))
    assert not [*session.parameters(), *session.buffers()]
    assert session.to(torch.float16).eval()(np.ones((1, 3)), np.ones((1, 3)))[1][0, 0] == 2
    session.compile()


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({"x": np.ones((1, 3))}, "takes x, y; given: x"),
        ({"x": np.ones((1, 4)), "y": np.ones((1, 3))}, r"takes x of \[\?, 3\], got \[1, 4\]"),
        ({"x": np.ones(3), "y": np.ones((1, 3))}, r"takes x of \[\?, 3\], got \[3\]"),
    ],
)
def test_a_wrong_input_is_named(file, feeds, words):
    with pytest.raises(InputError, match=words):
        OnnxSession(file(doubling())).run(feeds)


def test_a_wrong_number_of_inputs_is_named(file):
    with pytest.raises(InputError, match=r"takes 2 inputs \(x, y\), got 1"):
        OnnxSession(file(doubling()))(np.ones((1, 3)))


def test_what_onnxruntime_refuses_is_told_with_the_file(file):
    with pytest.raises(WeightsError, match=r"net\.onnx: onnxruntime could not run it"):
        OnnxSession(file(doubling())).run({"x": np.ones((2, 3)), "y": np.ones((5, 3))})


def test_another_network_is_refused(file):
    with pytest.raises(WeightsError, match=r"c\.onnx is not the face detector: that has 1 input and 9 outputs, this"):
        OnnxSession(file(classifier(), "c.onnx"), what="the face detector", expects=(1, 9))
    assert OnnxSession(file(classifier(), "c.onnx"), what="a classifier", expects=(1, 1)).what == "a classifier"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04rest", "zip archive"),
        (brightness_detector((64, 64))[:-200], r"cannot be opened as an ONNX model \("),
    ],
)
def test_a_damaged_file_says_what_it_is(file, data, words):
    with pytest.raises(WeightsCorruptError, match=words):
        OnnxSession(file(data))


def test_a_missing_file_and_no_threads_are_told(file, tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        OnnxSession(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="at least 1 thread, got 0"):
        OnnxSession(file(doubling()), threads=0)
