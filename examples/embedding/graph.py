"""The encoder as an ONNX graph: BERT's layers in the shape of MiniLM-L6, with weights from a seed.

Written node by node with ``onnx.helper``, so that no framework of a gigabyte has to be installed to export
what is a page of operators. ``reference.py`` says the same in numpy and ``check.py`` compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from reference import EPSILON, MASKED, Shape, Weights

# LayerNormalization came with 17, Gelu with 20; IR version 9 is what runtimes of that time read.
OPSET = 20
IR_VERSION = 9

Array = npt.NDArray[np.float32] | npt.NDArray[np.int64]


@dataclass
class Builder:
    """Collects nodes and weights; every method returns the name of the value that it adds."""

    nodes: list[onnx.NodeProto]
    weights: dict[str, onnx.TensorProto]

    def weight(self, name: str, value: Array) -> str:
        """Add a tensor that is part of the model."""
        self.weights[name] = numpy_helper.from_array(value, name)
        return name

    def numbers(self, *values: int) -> str:
        """Add a small vector of integers: axes, shapes, starts."""
        return self.weight("numbers_" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def scalar(self, name: str, value: float) -> str:
        """Add one number."""
        return self.weight(name, np.array(value, dtype=np.float32))

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output."""
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


class EncoderGraph:
    """Builds the graph of one encoder, from the bottom upwards."""

    def __init__(self, shape: Shape, weights: Weights) -> None:
        self._shape = shape
        self._builder = Builder([], {})
        self._names = {name: self._builder.weight(name, value) for name, value in weights.items()}

    def build(self, *, token_types: bool = True, output: str = "last_hidden_state") -> onnx.ModelProto:
        """Make the whole model; without ``token_types`` the segment is taken as 0, as some exports do."""
        inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * token_types
        hidden = self._embed(token_types=token_types)
        mask = self._mask()
        for layer in range(self._shape.layers):
            hidden = self._layer(f"layer{layer}.", hidden, mask)
        self._builder.nodes.append(helper.make_node("Identity", [hidden], [output]))
        graph = helper.make_graph(
            self._builder.nodes,
            "encoder",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
                for name in inputs
            ],
            [
                helper.make_tensor_value_info(
                    output, TensorProto.FLOAT, ["batch", "sequence", self._shape.width]
                )
            ],
            list(self._builder.weights.values()),
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[opset])
        onnx.checker.check_model(model, full_check=True)
        return model

    def _embed(self, *, token_types: bool) -> str:
        """Look up words, segments and positions, and normalise their sum."""
        add = self._builder.node
        numbers = self._builder.numbers
        length = add("Slice", add("Shape", "input_ids"), numbers(1), numbers(2))
        positions = add("Slice", self._names["positions"], numbers(0), length, numbers(0))
        segments = self._names["segments"]
        segment = add("Gather", segments, "token_type_ids" if token_types else numbers(0))
        summed = add("Add", add("Gather", self._names["words"], "input_ids"), segment)
        return self._normalised("embedding.", add("Add", summed, positions))

    def _mask(self) -> str:
        """Turn 1 and 0 (padding) into 0 and a number that softmax makes exactly zero."""
        add = self._builder.node
        kept = add("Cast", "attention_mask", to=TensorProto.FLOAT)
        padding = add("Sub", self._builder.scalar("one", 1.0), kept)
        bias = add("Mul", padding, self._builder.scalar("masked", MASKED))
        return add("Unsqueeze", bias, self._builder.numbers(1, 2))

    def _layer(self, prefix: str, hidden: str, mask: str) -> str:
        add = self._builder.node
        attended = self._linear(f"{prefix}attention_out", self._attention(prefix, hidden, mask))
        hidden = self._normalised(f"{prefix}attention.", add("Add", attended, hidden))
        wide = add("Gelu", self._linear(f"{prefix}wide", hidden))
        narrow = self._linear(f"{prefix}narrow", wide)
        return self._normalised(f"{prefix}feed_forward.", add("Add", narrow, hidden))

    def _attention(self, prefix: str, hidden: str, mask: str) -> str:
        """Let each token look at every other that is no padding, in each head by itself."""
        add = self._builder.node
        numbers = self._builder.numbers
        heads, size = self._shape.heads, self._shape.width // self._shape.heads

        def split(part: str, order: tuple[int, ...]) -> str:
            projected = self._linear(prefix + part, hidden)
            return add("Transpose", add("Reshape", projected, numbers(0, 0, heads, size)), perm=order)

        query, key = split("query", (0, 2, 1, 3)), split("key", (0, 2, 3, 1))
        scale = self._builder.scalar("scale", size**-0.5)
        scores = add("Mul", add("MatMul", query, key), scale)
        shares = add("Softmax", add("Add", scores, mask), axis=-1)
        mixed = add("MatMul", shares, split("value", (0, 2, 1, 3)))
        joined = add("Transpose", mixed, perm=(0, 2, 1, 3))
        return add("Reshape", joined, numbers(0, 0, self._shape.width))

    def _linear(self, name: str, value: str) -> str:
        product = self._builder.node("MatMul", value, self._names[f"{name}.weight"])
        return self._builder.node("Add", product, self._names[f"{name}.bias"])

    def _normalised(self, prefix: str, value: str) -> str:
        scale, shift = self._names[f"{prefix}scale"], self._names[f"{prefix}shift"]
        return self._builder.node("LayerNormalization", value, scale, shift, axis=-1, epsilon=EPSILON)
