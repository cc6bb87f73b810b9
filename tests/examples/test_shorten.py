"""examples/finetune/shorten.py: a decoder's first layers as a model of its own."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

from builders.models.checkpoints import tiny_model
from rexit.errors import InputError
from rexit.exporter.checkpoints.weights import decoder_model
from running.scripts import scripts_of

scripts = scripts_of("examples/finetune")


@pytest.fixture
def program() -> ModuleType:
    import shorten

    return shorten


def test_what_is_left_is_the_first_layers(program: ModuleType, tmp_path: Path) -> None:
    whole = tiny_model()
    whole.save_pretrained(tmp_path / "whole")
    (tmp_path / "whole/tokenizer.json").write_text("{}")
    program.shorten(str(tmp_path / "whole"), tmp_path / "two", 2)
    assert (tmp_path / "two/tokenizer.json").read_text() == "{}"
    short = decoder_model(tmp_path / "two")
    assert short.config.num_hidden_layers == 2
    kept = {name: weight for name, weight in whole.state_dict().items() if ".layers." not in name or int(name.split(".")[2]) < 2}
    assert short.state_dict().keys() == kept.keys()
    assert all(torch.equal(weight, kept[name]) for name, weight in short.state_dict().items())


@pytest.mark.parametrize("layers", [0, 5])
def test_more_layers_than_there_are(program: ModuleType, tmp_path: Path, layers: int) -> None:
    tiny_model().save_pretrained(tmp_path / "whole")
    with pytest.raises(InputError, match=rf"--layers {layers}: .* has 4 layers, expected 1 to as many"):
        program.shorten(str(tmp_path / "whole"), tmp_path / "none", layers)
    assert not (tmp_path / "none").exists()
