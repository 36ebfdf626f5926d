import pytest

from mtl_cli.data import ConlluSource
from mtl_cli.errors import UserError

pytestmark = pytest.mark.usefixtures("cache", "no_network")

TREEBANK = """\
# sent_id = 1
# text = au bois
1-2\tau\t_\t_\t_\t_\t_\t_\t_\t_
1\tà\tà\tADP\t_\t_\t3\tcase\t_\t_
2\tle\tle\tDET\t_\tDefinite=Def|Gender=Masc\t3\tdet\t_\t_
3\tbois\tbois\tNOUN\tNN\tGender=Masc\t0\troot\t_\t_
3.1\telided\t_\tVERB\t_\t_\t_\t_\t_\t_

# sent_id = 2
1\t# 1\t#\tSYM\t_\t_\t_\t_\t_\t_
"""


def load(path, content=TREEBANK):
    path.write_text(content, encoding="utf-8")
    return ConlluSource(train=str(path)).load()["train"].to_dict()


def test_words_are_read_without_multiword_tokens_empty_nodes_and_comments(tmp_path):
    assert load(tmp_path / "a.conllu") == {
        "tokens": [["à", "le", "bois"], ["# 1"]],
        "lemmas": [["à", "le", "bois"], ["#"]],
        "upos": [["ADP", "DET", "NOUN"], ["SYM"]],
        "xpos": [["_", "_", "NN"], ["_"]],
        "feats": [["_", "Definite=Def|Gender=Masc", "Gender=Masc"], ["_"]],
        "deprel": [["case", "det", "root"], ["_"]],
        "head": [[3, 3, 0], [-1]],
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\tcase\t_\t_\n", "\tcase\t_\n", r"a\.conllu, line 4: 9 fields"),
        ("2\tle\t", "2\t\t", r"a\.conllu, line 5: field 2 is empty"),
        ("3\tbois", "x\tbois", r"a\.conllu, line 6: ID is 'x'"),
        ("\t0\troot", "\tzero\troot", r"a\.conllu, line 6: HEAD is 'zero'"),
    ],
)
def test_a_broken_line_is_named(tmp_path, old, new, message):
    assert old in TREEBANK
    with pytest.raises(UserError, match=message):
        load(tmp_path / "a.conllu", TREEBANK.replace(old, new))


def test_places_name_the_line_where_a_sentence_begins(tmp_path):
    load(tmp_path / "a.conllu")
    place = ConlluSource(train=str(tmp_path / "a.conllu")).locate("train", 1)
    assert place.endswith("a.conllu, row 2 (line 9)")
