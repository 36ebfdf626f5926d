import datasets
import pytest

from mtl_cli.data import ConllSource
from mtl_cli.errors import UserError

pytestmark = pytest.mark.usefixtures("cache", "no_network")


def load(path, content=None, **settings):
    if content is not None:
        path.write_text(content, encoding="utf-8")
    return ConllSource(train=str(path), **settings).load()["train"].to_dict()


def test_sentences_agree_with_the_conll_builder_of_datasets_on_a_flawless_file(tmp_path, cache):
    path = tmp_path / "a.conll"
    path.write_text("Ann NNP B-PER\nruns VBZ O\n\n\nTo TO O\nRome NNP B-LOC\n")
    names = ["tokens", "pos_tags", "ner_tags"]
    reference = datasets.load_dataset("conll", data_files=str(path), column_names=names, split="train")
    assert load(path, columns=names) == reference.to_dict()
    assert reference.to_dict()["tokens"] == [["Ann", "runs"], ["To", "Rome"]]


def test_document_marks_are_skipped_with_and_without_tags(tmp_path):
    content = "-DOCSTART- -X- O\n\na x O\n\n-DOCSTART-\nb y O\n"
    found = load(tmp_path / "a.conll", content, columns=["tokens", "pos", "tags"])
    assert found["tokens"] == [["a"], ["b"]]


def test_comments_are_skipped_only_where_a_prefix_is_set(tmp_path):
    content = "# id 1\na\tO\n#\tO\n"
    with pytest.raises(UserError, match=r"line 1: 3 columns in '# id 1'"):
        load(tmp_path / "a.conll", content)
    assert load(tmp_path / "a.conll", content, comment_prefix="# ")["tokens"] == [["a", "#"]]


def test_tokens_keep_blanks_with_a_tab_and_odd_spaces_always(tmp_path):
    content = "New York\tB-LOC\n\u3000\tO\na\u00a0b\tO\n"
    assert load(tmp_path / "a.conll", content, delimiter="\t")["tokens"] == [["New York", "\u3000", "a\u00a0b"]]
    content = "\u3000 \tO\na\u00a0b  O\n"
    assert load(tmp_path / "b.conll", content) == {"tokens": [["\u3000", "a\u00a0b"]], "tags": [["O", "O"]]}


def test_carriage_returns_and_lines_of_blanks_end_sentences(tmp_path):
    path = tmp_path / "a.conll"
    path.write_bytes(b"a O\r\n\r\nb O\r\n \t \r\nc O")
    assert load(path)["tokens"] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("a O\nb\n", {}, r"a\.conll, line 2: no tags in 'b'\. Each line needs 2 columns \(tokens, tags\)"),
        ("a\tO\nb\t\n", {"delimiter": "\t"}, r"a\.conll, line 2: no tags in 'b\\t'"),
        ("a\tO\n\tO\n", {"delimiter": "\t"}, r"a\.conll, line 2: no tokens in"),
        ("a O\n\nb X O\n", {}, r"a\.conll, line 3: 3 columns in 'b X O', but `columns` names 2"),
    ],
)
def test_a_line_without_its_columns_is_named(tmp_path, content, settings, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path / "a.conll", content, **settings)


def test_bytes_that_are_not_utf_8_are_named_by_line(tmp_path):
    (tmp_path / "a.conll").write_bytes(b"a O\n\nb\xff O\n")
    with pytest.raises(UserError, match=r"a\.conll, line 3: not UTF-8"):
        load(tmp_path / "a.conll")


def test_places_name_the_line_of_the_first_token(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("-DOCSTART- O\n\na O\nb O\n\n\nc O\n")
    source = ConllSource(train=str(path))
    assert source.locate("train", 0) == f"{path}, row 1 (line 3)"
    assert source.locate("train", 1) == f"{path}, row 2 (line 7)"


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="columns must be different names"):
        ConllSource(train="a.conll", columns=["a", "a"])
    with pytest.raises(UserError, match="must not be empty"):
        ConllSource(train="a.conll", delimiter="")
