"""The report: its words, tables and page, from figures that are known."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_study import TASKS, measured, settings
from rich.console import Console

from mtl_cli.commands.study import write_report
from mtl_cli.studies.bootstrap import Bootstrap
from mtl_cli.studies.comparison import compare
from mtl_cli.studies.page import study_page
from mtl_cli.studies.report import StudyReport, make_report
from mtl_cli.studies.tables import tables_of
from mtl_cli.studies.texts import print_report, to_latex, to_markdown
from mtl_cli.studies.words import words_of
from mtl_cli.tracking import RunFolder

FULL = {"low_resource": [100, "all"], "low_resource_task": "rte", "pairs": True}


def report_of(*, missing=(), name="s", **changes) -> StudyReport:
    return make_report(name, measured(settings(**changes), missing=missing), {})


def test_the_words_say_where_learning_together_helps_and_where_it_hurts():
    lines = words_of(report_of())
    helped, hurt = "helped in places (rte with equal)", "hurt in others (sts with equal)"
    assert lines[0] == f"On validation, 3 seeds: learning together {helped} and {hurt}."
    better, worse = "better than alone on rte (+10.3 points, p = .001)", "worse than alone on sts (-0.5067, p"
    assert lines[1].startswith(f"equal: {better}; {worse}")
    assert lines[1].endswith("; delta_m -16.9 [-17.3, -16.4] %.")
    assert lines[2].startswith("pcgrad: no difference beyond noise on rte (+0.0 points, p = 1), sts (")
    assert lines[3].startswith("On test, equal: better on rte and worse on sts (delta_m -16.9")


def test_the_words_say_plainly_that_it_did_not_help():
    only = report_of(variants={"pcgrad": "weighting=pcgrad"})
    assert words_of(only)[0] == "On validation, 3 seeds: learning together made no difference beyond noise on any task."


def test_with_one_seed_and_no_predictions_the_words_say_that_nothing_was_tested():
    lines = words_of(report_of(**FULL, seeds=[1]))
    assert lines[0] == (
        "On validation, one seed: whether learning together helps could not be tested: one seed, and no predictions "
        "that the bootstrap over examples could use."
    )
    assert lines[1].startswith("equal: not tested on rte (+10.0 points), sts (-0.5000); delta_m")
    assert lines[3].startswith("On test, equal: not tested on rte, sts (delta_m ")
    assert lines[4] == (
        "rte over the size of its training split: equal could not be tested at any size (one seed); pcgrad could not "
        "be tested at any size (one seed)."
    )
    assert lines[5] == "Pairs: whether tasks help or hurt each other could not be tested (one seed)."
    assert "beyond noise" not in "\n".join(lines)


def test_with_one_seed_the_gaps_are_not_said_to_be_as_alone():
    assert gap_words(seeds=[1]) == [
        f"Overfitting (training ahead of validation): {variant} could not be tested (one seed)."
        for variant in ("equal", "pcgrad")
    ]
    # Over several seeds the gaps of `equal` are larger by about 0.1 on rte; on sts all by 0.25, which has no p.
    assert gap_words(seeds=[1, 2, 3])[0].endswith("equal more than alone on rte (not tested on sts).")


def gap_words(**changes):
    found = measured(settings(generalisation=True, **changes))
    train = {}
    for job, results in found.results.items():
        found.folders[job] = RunFolder(Path(job))
        seed = int(job[-1])
        ahead = {"rte": 0.01, "sts": 0.0}
        if job.startswith("variant=equal"):
            ahead = {"rte": 0.1 + seed / 100, "sts": 0.25}
        train[job] = {
            task: of_splits["validation"][TASKS[task].metric] + ahead[task] for task, of_splits in results.tasks.items()
        }
    return [line for line in words_of(make_report("s", found, train)) if line.startswith("Overfitting")]


def test_a_value_that_is_no_number_is_said_to_keep_from_a_test():
    found = measured(settings(low_resource=[100, "all"], low_resource_task="rte"))
    for job in ("variant=equal,seed=2", "variant=equal,size=100,seed=2"):
        found.results[job].tasks["rte"]["validation"]["accuracy"] = float("nan")
    lines = words_of(make_report("s", found, {}))
    assert lines[0].endswith("and hurt on sts with equal: negative transfer; not tested: rte with equal.")
    assert "worse than alone on sts (" in lines[1]
    assert "not tested on rte (not a finite number with each seed)" in lines[1]
    assert "equal could not be tested at any size; pcgrad makes no difference" in lines[4]


def test_some_that_were_tested_and_some_that_were_not_are_told_apart():
    found = measured(settings(low_resource=[100, "all"], low_resource_task="rte"))
    found.results["variant=equal,size=100,seed=2"].tasks["rte"]["validation"]["accuracy"] = float("nan")
    assert "equal helps with 2,490 examples (not tested with 100);" in words_of(make_report("s", found, {}))[4]


def test_the_words_speak_of_curves_pairs_and_groups():
    text = "\n".join(words_of(report_of(**FULL)))
    assert "size of its training split: equal helps with 100, 2,490 examples; pcgrad makes no difference" in text
    assert "rte hurts sts" in text
    assert "Proposed groups, to be tested: [rte] [sts], predicted +0.0 % a task over training alone" in text


def test_nothing_finished_is_said():
    found = measured()
    report = make_report("s", measured(missing=[job.name for job in found.plan.jobs]), {})
    assert report.comparisons == []
    assert words_of(report)[0].startswith("12 of 12 runs have no result")
    study_page(report)
    to_markdown(report)
    to_latex(report)


def rows_of(report, title):
    (table,) = (table for table in tables_of(report) if table.title == title)
    return {row[0] if table.num_names == 1 else tuple(row[:2]): row for row in table.rows}, table


def test_the_table_of_means():
    rows, table = rows_of(report_of(), "Comparison on validation")
    assert table.header == ["", "rte accuracy", "sts mse", "delta_m %", "mean rank", "negative transfer"]
    # 61 +- 4.303 * 1 / sqrt(3)
    assert rows["single-task"] == ["single-task", "61.0 ± 2.5", "1.0000 ± 0.0497", "-", "2.00", ""]
    assert rows["equal"][1].endswith(" *")
    assert rows["equal"][5] == "1 (sts)"
    assert rows["pcgrad"][5] == "0"
    assert table.marks == {(1, 1): "better", (1, 2): "worse"}
    for word in ("n = 3 seeds", "paired t-test over seeds, Holm-corrected over tasks", "positive is better"):
        assert word in table.note


def test_with_one_seed_the_bootstrap_decides_and_the_table_says_so():
    found = measured(settings(seeds=[1]))
    drawn = Bootstrap(difference=0.1, low=0.02, high=0.18, p=0.01, num_examples=277, num_resamples=1000)
    comparison = compare(found, "validation", {("equal", "rte"): drawn})
    cell = comparison.variants["equal"].tasks["rte"]
    assert cell.bootstrap_p_holm == pytest.approx(0.02)
    assert comparison.variants["equal"].better == ["rte"]
    report = StudyReport("s", found.plan, [comparison], {}, [], {}, None, {})
    rows, table = rows_of(report, "Comparison on validation")
    assert rows["equal"][1] == "70.0 *"
    assert "paired bootstrap over examples" in table.note
    rows, _ = rows_of(report, "Differences to single-task training on validation")
    assert rows["equal", "rte"][2:] == ["+10.0", "1", "-", "-", "+10.0 [+2.0, +18.0]", ".010", ".020"]


def test_the_costs_state_the_budget():
    rows, table = rows_of(report_of(budget="steps"), "Parameters and training")
    assert rows["single-task (2 runs)"][1:3] == ["4,000", "2,000"]
    assert "every run has as many updates as the joint run" in table.note


def test_a_curves_table_says_how_often_the_rows_were_seen():
    rows, table = rows_of(report_of(**FULL), "rte: size of the training split")
    assert table.header == ["", "100", "2,490"]
    assert rows["single-task"] == ["single-task", "30.5 ± 1.2", "61.0 ± 2.5"]
    assert "Passes over the rows of rte, by size: single-task 3.0, 3.0; equal 3.0, 3.0; pcgrad 3.0, 3.0." in table.note


def test_missing_runs_are_named_with_the_reason():
    report = report_of(missing=["variant=equal,seed=2"])
    rows, _ = rows_of(report, "Runs without a result")
    assert rows["variant=equal,seed=2", "failed: step 7: loss of task 'rte' is nan"]
    _, table = rows_of(report, "Comparison on validation")
    assert "n = 2 to 3 seeds" in table.note
    assert "1 of 12 runs have no result" in "\n".join(words_of(report))


def test_the_terminal_shows_words_tables_and_notes(capsys):
    print_report(report_of(**FULL), Console(width=200))
    printed = capsys.readouterr().out
    for word in ("learning together helped", "single-task", "Who helps whom", "mean rank", "61.0 ± 2.5"):
        assert word in printed


def test_a_wide_table_is_not_cut_where_there_is_no_terminal(capsys):
    print_report(report_of(), Console(width=40))
    assert re.search(r"equal +rte +\+10\.3 \[\+8\.9, \+11\.8\] +3 +\.001", capsys.readouterr().out)


def test_markdown_holds_the_tables():
    text = to_markdown(report_of(**FULL, name="a|b"))
    assert text.startswith("# Study a\\|b\n")
    assert "| single-task | 61.0 ± 2.5 | 1.0000 ± 0.0497 | - | 2.00 |  |" in text
    assert "| --- | ---: |" in text


def test_names_are_escaped_for_markdown_and_latex():
    report = report_of(variants={"equal": "weighting=equal"})
    strange = "a|b>c[d]<e"
    comparison = report.comparisons[0]
    comparison.variants[strange] = comparison.variants.pop("equal")
    assert "a\\|b\\>c\\[d]\\<e" in to_markdown(report)
    assert "a$|$b$>$c[d]$<$e" in to_latex(report)


def test_latex_escapes_and_balances():
    text = to_latex(report_of())
    assert text.count("\\begin{table}") == text.count("\\end{table}") == 2
    assert "61.0 $\\pm$ 2.5" in text
    assert "delta\\_m \\%" in text
    assert "$^{*}$" in text
    assert not re.search(r"(?<!\\)[%_#]", re.sub(r"^%.*$", "", text, flags=re.MULTILINE))


class Tags(HTMLParser):
    """Fails where tags are not closed in order; gathers attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_loads_nothing():
    page = study_page(report_of(**FULL, missing=["variant=equal,seed=2"]))
    found = Tags(page)
    for word in ("learning together", "61.0 ± 2.5", "Who helps whom", "Runs without a result", "nan"):
        assert word in found.text
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    links = [value for _, name, value in found.attributes if name in ("src", "href", "xlink:href")]
    assert links
    assert not any(re.match(r"(?:\w+:)?//|\w+:", link) for link in links)
    assert not any(tag == "script" for tag, *_ in found.attributes)


def test_the_page_escapes_what_comes_from_runs():
    report = report_of(missing=["variant=equal,seed=2"], name="<script>alert(1)</script>")
    report.missing["variant=equal,seed=2"] = "<img src=x onerror=alert(1)>"
    page = study_page(report)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;img src=x" in page


def test_the_files_of_a_report(tmp_path):
    write_report(tmp_path, report_of(**FULL))
    assert {path.name for path in tmp_path.iterdir()} == {"study.json", "study.md", "study.tex", "study.html"}
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["format_version"] == 1
    equal = record["comparisons"]["validation"]["variants"]["equal"]
    assert equal["worse"] == ["sts"]
    assert equal["tasks"]["rte"]["values"] == {"1": 0.7, "2": 0.72, "3": 0.72}
    assert equal["tasks"]["rte"]["gain"]["difference"]["n"] == 3
    assert record["costs"]["single"]["tokens"] == 2000
    assert {(cell["task"], cell["with"]) for cell in record["transfer"]["cells"]} == {("rte", "sts"), ("sts", "rte")}
    assert record["learning_curves"][0]["systems"]["equal"][0]["size"] == 100
