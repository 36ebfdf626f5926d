"""The page of a search."""

import json
import re
from html.parser import HTMLParser

import pytest
from plans import plan, trial

from mtl_cli.search.figures import figures, study_to_show
from mtl_cli.search.page import search_page
from mtl_cli.search.pareto_fronts import pareto_front
from mtl_cli.search.space import Choice, Float, Space

SPACE = Space({"optimizer.lr": Float(1e-5, 1e-2, log=True), "sharing": Choice(("hard", "cross_stitch"))})
TRIALS = [
    trial(0, 0.5, evaluations={1: 0.4, 2: 0.5}),
    trial(1, 0.7, evaluations={1: 0.6, 2: 0.7}),
    trial(2, 0.6, evaluations={1: 0.5, 2: 0.6}),
    trial(3, state="pruned", evaluations={1: 0.1}, pruned_at_step=40),
    trial(4, state="failed", error="</script><script>alert(1)</script>"),
    trial(5, 0.65, evaluations={1: 0.5, 2: 0.65}),
    trial(6, state="unfinished", settings={}),
]


class Parsed(HTMLParser):
    """Headings, figures and scripts of a page."""

    def __init__(self, page):
        super().__init__()
        self.headings, self.scripts, self.text, self._open = [], [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self._open = [tag, dict(attributes)]
        if tag == "script":
            self.scripts.append((dict(attributes), ""))
        if tag == "h2":
            self.headings.append("")

    def handle_data(self, data):
        tag = self._open[0] if self._open else ""
        if tag == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif tag == "h2":
            self.headings[-1] += data.strip()
        else:
            self.text += data


def test_the_page_has_every_figure_and_needs_nothing_from_elsewhere():
    page = search_page(TRIALS, plan(SPACE), "search <b>")
    parsed = Parsed(page)
    assert parsed.headings == [
        "The best trial",
        "History",
        "Parallel coordinates",
        "Importance of the settings",
        "Slices",
        "Evaluations during training",
        "All trials",
    ]
    data = [text for attributes, text in parsed.scripts if attributes.get("type") == "application/json"]
    assert len(data) == 5
    assert all(set(json.loads(text)) >= {"data", "layout"} for text in data)
    runs = [attributes for attributes, _ in parsed.scripts if "type" not in attributes]
    (nonce,) = {attributes["nonce"] for attributes in runs}
    assert f"script-src 'nonce-{nonce}'" in page
    assert "default-src 'none'" in page
    assert page.count("plotly.js v") == 1
    assert not any("src" in attributes for attributes, _ in parsed.scripts)
    assert "<link" not in page.split("<style>")[0]


def test_what_comes_from_runs_is_escaped():
    page = search_page(TRIALS, plan(SPACE), "search <b>")
    assert "<script>alert(1)" not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page
    assert "search <b>" not in page


def test_the_page_names_the_best_trial_and_its_line():
    text = Parsed(search_page(TRIALS, plan(SPACE), "s")).text
    assert "trial-001: score 0.7000" in text
    assert "mtl train seed=3 optimizer.lr=0.0002 sharing=cross_stitch" in text
    assert "7 of 20: 4 finished, 1 pruned, 1 failed, 1 unfinished" in text


def test_several_objectives_have_a_front_and_figures_each():
    made = plan(SPACE, objectives=["a/accuracy", "b/loss"])
    trials = [trial(i, 0.1 * i, 0.3 * (i % 3)) for i in range(6)]
    titles = [figure.title for figure in figures(trials, made)]
    assert titles[0] == "Pareto front"
    assert "Importance of the settings: b/loss" in titles
    assert "Evaluations during training" not in titles
    assert all(figure.figure is not None for figure in figures(trials, made))
    assert "The Pareto front" in Parsed(search_page(trials, made, "s")).headings


def test_no_figure_is_drawn_by_webgl_which_the_page_forbids():
    made = plan(SPACE, objectives=["a/accuracy", "b/loss", "c/accuracy"])
    trials = [trial(i, 0.1 * i, 0.3 * (i % 3), 0.5 - 0.1 * i) for i in range(6)]
    drawn = [*figures(trials, made), *figures(TRIALS, plan(SPACE))]
    kinds = {trace["type"] for figure in drawn if figure.figure for trace in figure.figure.to_plotly_json()["data"]}
    assert kinds <= {"scatter", "bar"}
    assert len([figure for figure in drawn if figure.title.startswith("Pareto front: ")]) == 3


def test_a_front_in_two_objectives_marks_what_a_third_keeps_on_it():
    objectives = ["a/accuracy", "b/accuracy", "c/accuracy"]
    others, front = pareto_front(
        [trial(0, 0.9, 0.9, 0.1), trial(1, 0.1, 0.1, 0.2), trial(2, 0.1, 0.1, 0.1)], objectives, 0, 1
    ).data
    assert list(others.text) == ["2"]
    assert list(front.x) == [0.9, 0.1]
    assert list(front.text) == ["0", "1"]


@pytest.mark.parametrize("trials", [[], [trial(0, state="failed", error="no")], [trial(0, 0.5)]])
def test_a_search_that_has_hardly_begun_has_a_page(trials):
    page = search_page(trials, plan(SPACE), "s")
    assert re.search(rf"{len(trials)} of 20", page)


def test_figures_show_trials_under_their_own_numbers():
    shown = study_to_show(TRIALS, plan(SPACE)).get_trials()
    assert [t.number for t in shown if t.state.name == "COMPLETE"] == [0, 1, 2, 5]
    assert shown[3].intermediate_values == {1: 0.1}
