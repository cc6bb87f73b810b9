"""The graphs on disk: names, dynamic sizes, external weights, no trace of the exporting machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from builders.bundles.bundle_files import contents
from builders.models.checkpoints import LAYERS
from rexit.errors import CheckpointError
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.graph.targets import find_target
from rexit.exporter.graph.trace import export_segment
from rexit.format.bundle import Bundle

FOLDER = "variants/cpu-fp32"


@pytest.fixture(scope="module")
def graphs(exported: Path) -> list[onnx.ModelProto]:
    return [onnx.load(exported / FOLDER / f"segment-{k}.onnx", load_external_data=False) for k in range(3)]


def test_names_are_the_manifests(exported: Path, graphs: list[onnx.ModelProto]) -> None:
    def flat(names: dict[str, object]) -> list[object]:
        return [n for value in names.values() for n in (value if isinstance(value, list) else [value])]

    for segment, model in zip(Bundle.open(exported).variant.segments, graphs, strict=True):
        assert [value.name for value in model.graph.input] == flat(dict(segment.inputs))
        assert [value.name for value in model.graph.output] == flat(dict(segment.outputs))
        assert ("tokens" in segment.inputs) == (segment.layers[0] == 0)
        assert ("hidden" in segment.outputs) == (segment.layers[1] != LAYERS)


def test_fused_operators_and_masks_made_once(graphs: list[onnx.ModelProto]) -> None:
    model = graphs[2]  # two layers
    count = Counter(node.op_type for node in model.graph.node)
    assert model.opset_import[0].version == 23
    assert (count["RotaryEmbedding"], count["RMSNormalization"]) == (4, 5)
    # The first layer's attention is in two parts; the last one's, for the rows alone, keeps the mask of all pairs.
    assert (count["SlateAttention"], count["Attention"]) == (1, 1)
    assert (count["Where"], count["Cos"], count["Sin"]) == (1, 1, 1)
    assert "Identity" not in count


def test_weights_are_external_and_nothing_tells_of_the_machine(exported: Path, graphs: list[onnx.ModelProto]) -> None:
    for k, model in enumerate(graphs):
        path = exported / FOLDER / f"segment-{k}.onnx"
        external = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        assert {entry.value for t in external for entry in t.external_data if entry.key == "location"} == {f"{path.name}.data"}
        text = path.read_bytes()
        assert b"site-packages" not in text and b".py" not in text
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        onnx.checker.check_model(str(path))


@pytest.mark.usefixtures("untraced")
@pytest.mark.slow
def test_the_same_segment_gives_the_same_bytes(checkpoint_folder: Path, tmp_path: Path) -> None:
    written = []
    for name in ("first", "again"):
        checkpoint = load_checkpoint(checkpoint_folder)
        segment = SegmentModule(checkpoint.decoder, checkpoint.heads, 1, 1, 2).eval()
        (tmp_path / name).mkdir()
        export_segment(segment, 1, find_target("cpu", "fp32"), tmp_path / name)
        written.append(contents(tmp_path / name))
    assert written[0] == written[1] and list(written[0]) == ["segment-1.onnx", "segment-1.onnx.data"]


@pytest.mark.medium
@pytest.mark.usefixtures("untraced")
def test_untraceable_model_is_one_line(checkpoint_folder: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_folder)
    segment = SegmentModule(checkpoint.decoder, checkpoint.heads, 0, 0, 1).eval()
    segment.projection.register_forward_hook(lambda _module, _inputs, logits: logits.detach().numpy().item())
    with pytest.raises(CheckpointError, match="layers 0 to 1 cannot be exported") as caught:
        export_segment(segment, 0, find_target("cpu", "fp32"), tmp_path)
    assert "\n" not in str(caught.value)
