"""tools/outsiders.py sees who names a feature outside its room."""

from __future__ import annotations

from running.scripts import scripts_of

scripts = scripts_of("tools")


def test_a_file_outside_the_room_that_names_the_feature_is_listed() -> None:
    from outsiders import Feature, outsiders

    texts = {"src/floor.py": "floor", "src/session.py": "a floor here", "src/flooring.py": "flooring alone"}
    assert outsiders(Feature(r"/floor\.py", r"\bfloor\b"), texts) == ["src/session.py"]


def test_every_room_exists_and_every_feature_has_outsiders_to_count() -> None:
    import re

    from outsiders import FEATURES, outsiders, product

    texts = product()
    for name, feature in FEATURES.items():
        assert any(re.search(feature.room, path) for path in texts), name
        assert outsiders(feature, texts), name
