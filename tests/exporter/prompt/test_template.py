from pathlib import Path

import pytest

from rexit.errors import InputError
from rexit.exporter.prompt.template import BINS, WORDS, Placeholder, Template, parse, read_template

LABELS = '[labels]\nyes = " yes"\nno = " no"\n'
PLAIN = "prompt = 'x'\n" + LABELS


def read(folder: Path, text: str) -> Template:
    (folder / "t.toml").write_text(text)
    return read_template(folder / "t.toml")


def test_defaults(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('prompt = "{item.title}?"\n' + LABELS + "[bins]\ncount = 3\n")
    parsed = read_template(tmp_path / "t.toml")
    assert parsed.prompt == (Placeholder("item.title"), "?")
    entry = (Placeholder("item.title", spaced=True), Placeholder("verdict"), ";")
    assert parsed.entries == {"history.recent": entry, "history.nearest": entry, "similar_liked": entry}
    assert parsed.words == WORDS and parsed.bins == {**BINS, "count": 3} and parsed.bos is None and parsed.limits == {}
    assert parsed.labels == {"yes": " yes", "no": " no"}
    assert parsed.zero is None


def test_exit_zero_can_read_what_the_prompt_reads_and_columns_of_vectors(tmp_path: Path) -> None:
    prompt = "{item.title} {nearest_like_rate:3} {user.count}{similar_like_rate:10}{similar_liked:4}"
    parsed = read(tmp_path, PLAIN.replace("'x'", f"'{prompt}'"))
    counts = [f"{{{what}.{number}}}" for what in ("user", "item") for number in ("count", "like_rate")]
    shown = ["{nearest_like_rate:10}", "{nearest_like_rate:3}", "{similar_like_rate:10}"]
    assert list(map(str, parsed.numbers(["look", "gcn"]))) == ["{gcn}", *counts, *shown, "{look}"]
    chosen = read(tmp_path, PLAIN + "[zero]\ninputs = ['look', 'item.count']\n")
    assert list(map(str, chosen.numbers(["look", "text"]))) == ["{look}", "{item.count}"]
    assert "zero.inputs" in chosen.columns("item")["look"] and "item.count" not in chosen.columns("item")


def test_exit_zero_can_be_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, PLAIN + "[zero]\ninputs = []\n").zero == ()


def test_each_list_may_have_its_own_entry(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('prompt = "{item.title}?"\nentry = "a"\n' + LABELS + '[entries]\nnearest = "{verdict}"\n')
    parsed = read_template(tmp_path / "t.toml")
    assert parsed.entries == {"history.recent": ("a",), "history.nearest": (Placeholder("verdict"),), "similar_liked": ("a",)}


def test_limits_are_by_column(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('prompt = "{item.title}?"\n' + LABELS + "[limits]\nitem.title = 24\nuser.'home town' = 8\n")
    assert read_template(tmp_path / "t.toml").limits == {"item.title": 24, "user.home town": 8}


def test_a_space_before_a_single_value_moves_into_it() -> None:
    def parts(text: str) -> tuple[object, ...]:
        return parse(Path("t"), "prompt", text)

    assert parts("Is {user.age}") == ("Is", Placeholder("user.age", spaced=True))
    assert parts(" {user.age}  {user.age}") == (Placeholder("user.age", spaced=True), " ", Placeholder("user.age", spaced=True))
    assert parts("Seen: {history.recent:10}") == ("Seen: ", Placeholder("history.recent", 10))
    assert parse(Path("t"), "entry", "{verdict} {verdict}") == (Placeholder("verdict"), " ", Placeholder("verdict"))


def test_braces_are_escaped_by_doubling() -> None:
    assert "".join(map(str, parse(Path("t"), "prompt", "{{x}} {{{item.y}}}"))) == "{x} {{item.y}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt = 3\n" + LABELS, "prompt is 3, expected a text"),
        ("prompt = 'x'\n[labels]\nyes = 'a'\n", "labels.no is missing, expected a text"),
        ("prompt = 'x'\nlabels = 'yes'\n", "labels is 'yes', expected a section [labels]"),
        ("prompt = 'x'\nentri = ''\n" + LABELS, "unknown key entri, known are: prompt, entry"),
        (PLAIN + "maybe = 'm'\n", "unknown key labels.maybe, known are: yes, no"),
        (PLAIN + "[bins]\ncount = 0\n", "bins.count is 0, expected a whole number from 1 to 1000"),
        (PLAIN + "[limits]\nitem = 8\n", "limits.item is 8, expected a section [limits.item]"),
        (PLAIN + "[limits]\ntitle = 8\n", "unknown key limits.title, known are: user, item"),
        (PLAIN + "[limits]\nitem.title = 0\n", "limits.item.title is 0, expected a whole number from 1 to 1000"),
        (PLAIN + "[zero]\ninput = []\n", "unknown key zero.input, known are: inputs"),
        (PLAIN + "[zero]\ninputs = 'gcn'\n", "zero.inputs is 'gcn', expected a list of texts"),
        (PLAIN + "[zero]\ninputs = ['']\n", "zero.inputs: '' is neither gcn, user."),
        (PLAIN + "[zero]\ninputs = ['gcn', 'gcn']\n", "zero.inputs: 'gcn' is there twice"),
        (PLAIN + "[zero]\ninputs = ['gcn:3']\n", "'gcn:3': only similar_like_rate and nearest_like_rate take"),
        (PLAIN + "[zero]\ninputs = ['nearest_like_rate']\n", "'nearest_like_rate' needs a limit from 1 to 1000"),
        ("prompt = 'x\n" + LABELS, "not a TOML file"),
        ("prompt = '{item.title'\n" + LABELS, "prompt: expected '}' before end of string (write {{ and }} for braces)"),
        ("prompt = 'a } b'\n" + LABELS, "prompt: Single '}' encountered"),
        ("prompt = '{item.title!r}'\n" + LABELS, "{item.title!r}: conversions are not supported"),
        (
            "prompt = '{history.recent}'\n" + LABELS,
            "{history.recent} needs a limit from 1 to 1000, as in {history.recent:5}, not ''",
        ),
        (
            "prompt = '{user.age:3}'\n" + LABELS,
            "{user.age:3}: only lists and their rates take a limit (history.recent, history.nearest",
        ),
        ("prompt = '{item.title:2}'\n" + LABELS, "prompt: {item.title:2}: only lists and their rates take a limit"),
        (
            "prompt = '{history.recents:10}'\n" + LABELS,
            "prompt: unknown placeholder {history.recents:10}, known are: user.COLUMN",
        ),
        ("prompt = 'x'\nentry = '{verdct}'\n" + LABELS, "entry: unknown placeholder {verdct}, known are: item.COLUMN, verdict"),
        (PLAIN + "[entries]\nnearest = '{user.age}'\n", "entries.nearest: unknown placeholder {user.age}"),
    ],
)
def test_bad_templates_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value) and "t.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_template(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.toml: cannot be read: No such file"):
        read_template(tmp_path / "none.toml")
