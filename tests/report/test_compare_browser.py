"""The page of a comparison in a browser without a window: it draws, sorts, filters and follows its address."""

import shutil
from urllib.parse import quote

import pytest
from report.made_up_sweep import SCORES, config, records, results, write_run, write_sweep, write_unfinished

from mtl_cli.report.compare_page import compare_page
from mtl_cli.report.run_records import read_runs

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the PATH")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
EVIL_NAME = "<img src=x onerror='window.hacked = 3'>%{x}"
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
NUM_RUNS = 16


class Browser:
    """A page in Chromium, and what one does with it."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def open(self, address="", width=1400, scheme="light", height=900):
        """Load the page anew at this address."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}{address}")
        return self

    def go(self, address=""):
        """Follow a link within the open page, or load it where there is none yet."""
        if not self.driver.current_url.startswith(self.url):
            return self.open(address)
        self.driver.execute_async_script(
            """const [address, done] = arguments;
            if (location.hash === address) return done();
            addEventListener('hashchange', () => requestAnimationFrame(done), { once: true });
            location.hash = address;""",
            address,
        )
        return self

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def rows(self, table):
        """The texts of the cells of a table, a list a row."""
        return self.run(
            """const rows = document.querySelectorAll(`${arguments[0]} tbody tr`);
            return [...rows].map((row) => [...row.cells].map((cell) => cell.textContent));""",
            table,
        )

    def click(self, selector):
        self.run("document.querySelector(arguments[0]).click()", selector)

    def choose(self, label, value):
        self.run(
            """const labels = [...document.querySelectorAll('label')];
            const control = labels.find((e) => e.textContent.startsWith(arguments[0])).querySelector('select');
            control.value = arguments[1];
            control.dispatchEvent(new Event('change'));""",
            label,
            value,
        )

    def column(self, name):
        """The cells of a column of the table of runs, from above."""
        heads = self.texts("#runs-table thead th")
        place = next(i for i, head in enumerate(heads) if head.rstrip("▲▼") == name)
        return self.texts(f"#runs-table tbody tr > :nth-child({place + 1})")

    def drawn(self):
        """How much each plot of the view has drawn, after each was scrolled to: paths, points and bars."""
        return self.driver.execute_async_script(
            """const done = arguments[0];
            (async () => {
              const found = {};
              for (const figure of document.querySelectorAll('figure')) {
                figure.scrollIntoView();
                const marks = () => figure.querySelectorAll('svg .scatterlayer path, svg .barlayer path').length;
                const pause = () => new Promise((next) => setTimeout(next, 20));
                for (let tries = 0; tries < 100 && !marks(); tries += 1) await pause();
                found[figure.querySelector('figcaption').textContent] = marks();
              }
              done(found);
            })();"""
        )

    def problems(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    write_sweep(folder / "sweep")
    write_unfinished(folder)
    scores = SCORES["mmoe", "pcgrad"]
    made = config("mmoe", "pcgrad", seed=9) | {"note": EVIL}
    write_run(folder / EVIL_NAME, made, results(scores, error=EVIL), records(scores), [f"note={EVIL}"], command=[EVIL])
    file = folder / "compare.html"
    file.write_text(compare_page(read_runs([folder])), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver, page):
    browser = Browser(driver, page.as_uri())
    browser.problems()  # of an earlier test
    yield browser
    assert browser.problems() == []
    assert browser.run("return window.hacked ?? null") is None
    assert browser.run("return performance.getEntriesByType('resource').map((e) => e.name)") == []


def test_the_header_counts_the_runs(browser):
    browser.go()
    assert browser.texts("h1") == [f"Comparison of {NUM_RUNS} runs"]
    assert browser.texts(".statuses .status") == ["● 13 finished", "▶ 1 running", "✖ 1 failed", "▲ 1 broken"]


def test_a_click_on_a_head_sorts_and_a_second_one_turns_it_round(browser):
    browser.go()
    score = [value.rstrip(" ★") for value in browser.column("score")]
    assert score == [*sorted(score[:-1], reverse=True), "–"]  # the broken run, which has none, is last
    assert len(score) == NUM_RUNS
    browser.click("[data-sort='m.validation/score']")
    turned = [value.rstrip(" ★") for value in browser.column("score")]
    assert turned == [*sorted(score[:-1]), "–"]
    assert browser.run("return document.querySelector('[aria-sort=ascending]').textContent") == "score▲"
    browser.click("[data-sort='name']")
    names = browser.column("run")
    assert names == sorted(names, key=str.lower) != browser.column("score")
    assert "sort=name" in browser.run("return location.hash")


def test_the_best_of_each_column_is_marked(browser):
    browser.go()
    # 0.84 and 0.02 more with the third seed; entities: 0.74 + 0.02.
    assert [value for value in browser.column("sentimentaccuracy") if "★" in value] == ["0.8600 ★"]
    assert [value for value in browser.column("entitiesspan_f1") if "★" in value] == ["0.7600 ★"]


def test_words_and_values_filter_the_rows_and_the_plots(browser):
    browser.go()
    browser.run(
        "const box = document.getElementById('filter'); box.focus(); box.value = 'MMOE seed=2';"
        "box.dispatchEvent(new Event('input'))"
    )
    assert browser.column("sharing") == ["mmoe", "mmoe"]
    assert browser.run("return document.activeElement.id") == "filter"
    assert "2 of 16 runs in the plots" in browser.texts("#nav")[0]
    browser.choose("weighting", "=pcgrad")
    assert browser.column("run") == ["sharing=mmoe,weighting=pcgrad,seed=2"]
    browser.run("[...document.querySelectorAll('button')].find((e) => e.textContent === 'Clear filters').click()")
    assert len(browser.column("run")) == NUM_RUNS


def test_a_tick_takes_a_run_out_of_the_plots(browser):
    browser.go()
    assert "15 of 16 runs in the plots" in browser.texts("#nav")[0]  # all but the broken one
    browser.click("#runs-table tbody input")
    assert "14 of 16 runs in the plots" in browser.texts("#nav")[0]
    assert "shown=" in browser.run("return location.hash")


def test_test_metrics_are_shown_on_demand_only(browser):
    browser.go()
    assert not any("(test)" in text for text in browser.texts("#runs-table th"))
    browser.go("#test=1")
    assert "sentiment (test)accuracy" in browser.texts("#runs-table thead th")
    assert browser.column("sentiment (test)accuracy").count("0.7600 ★") == 1


def test_unfinished_runs_say_what_is_wrong(browser):
    browser.go("#q=inference+finite")
    (name,) = browser.column("run")
    assert name == "failedstep 61: the loss of <b>inference</b> is not finite"
    assert browser.texts("#runs-table b") == []


def test_curves_are_drawn_for_each_task(browser):
    browser.go("#view=curves&seeds=each")
    drawn = browser.drawn()
    for task, metric in (("sentiment", "accuracy"), ("entities", "span_f1"), ("inference", "accuracy")):
        # A curve for each of the 15 runs that have logged, as measured and smoothed; at least the latter.
        assert drawn[f"{task}: training loss"] >= 15
        assert drawn[f"{task}: {metric} on validation"] >= 15
        assert drawn[f"{task}: weight of its loss"] >= 15
    assert drawn["Conflict rate: share of negative cosines between the gradients of two tasks"] >= 15
    assert drawn["sentiment and entities: cosine of their gradients"] >= 15


@pytest.mark.parametrize(("x", "title"), [("tokens", "real tokens seen"), ("epoch", "epochs")])
def test_curves_have_other_axes_and_means_over_seeds(browser, x, title):
    browser.go(f"#view=curves&x={x}&seeds=mean&q=weighting%3Dequal")
    assert browser.drawn()["sentiment: training loss"] >= 2
    assert title in browser.texts(".xtitle")
    assert "mmoe, equal, lr=0.001 (3 seeds)" in browser.texts(".legend button")


def test_smoothing_is_an_average_without_bias_to_the_start(browser):
    browser.go("#view=curves&smooth=10&shown=4&seeds=each")
    browser.drawn()
    raw, smooth = browser.run(
        "return document.querySelector('.plot').data.map((trace) => [...trace.x].map((x, i) => [x, trace.y[i]]))"
    )
    # exp(-distance / scale) with a scale of 10 % of the last place, worked out here from the curve as measured.
    scale = 0.1 * raw[-1][0]
    for place in (0, 1, 10, len(raw) - 1):
        weights = [2.718281828459045 ** (-(raw[place][0] - x) / scale) for x, _ in raw[: place + 1]]
        mean = sum(w * y for w, (_, y) in zip(weights, raw, strict=False)) / sum(weights)
        assert smooth[place][1] == pytest.approx(mean, rel=1e-9)


def test_scores_are_means_over_seeds_with_intervals(browser):
    browser.go("#view=scores")
    assert min(browser.drawn().values()) > 0
    rows = browser.rows("#scores-table")
    # 0.80, 0.70, 0.60 in the mean; half of the interval is 4.302653 * 0.02 / sqrt(3).
    (row,) = (row for row in rows if row[0].startswith("hard, equal, lr=0.001"))
    assert row[1:] == ["3", *(f"{mean} ± 0.0497 (3)" for mean in ("0.7000", "0.8000", "0.7000", "0.6000"))]
    (alone,) = (row for row in rows if EVIL in row[0])
    assert alone[1:3] == ["1", "0.6767 (1)"]


def test_the_page_says_what_its_plus_minus_means(browser):
    browser.go("#view=scores")
    browser.drawn()
    (caption,) = browser.texts("#scores-table caption")
    assert caption.startswith("Mean ± half of the 95 % interval for the mean (n seeds). ")
    assert caption.endswith(" In tables of mtl compare, ± is the standard deviation.")


def test_runs_that_name_no_seed_are_draws_of_their_own_in_the_curves_too(driver, tmp_path):
    scores = SCORES["hard", "equal"]
    for name in ("one", "two"):
        made = {key: value for key, value in config().items() if key != "seed"}
        write_run(tmp_path / name, made, results(scores), records(scores))
    file = tmp_path / "compare.html"
    file.write_text(compare_page(read_runs([tmp_path])), encoding="utf-8")
    browser = Browser(driver, file.as_uri()).open("#view=curves&seeds=mean")
    assert any(text.endswith("(2 seeds)") for text in browser.texts(".legend button"))


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(browser):
    browser.go("#view=scores&by=weighting&q=sharing%3D")
    browser.drawn()
    assert "not averaged" in browser.texts("#scores-table")[0]
    (notes,) = browser.texts("#score-notes")
    assert "weighting=equal: not averaged. Its 6 runs differ in sharing; single runs are shown." in notes
    assert browser.run("return document.querySelectorAll('.barlayer path').length") == 0


def test_the_front_of_two_tasks_is_marked(browser):
    browser.go("#view=trade-offs&first=validation/sentiment/accuracy&second=validation/entities/span_f1")
    drawn = browser.drawn()
    assert len(drawn) == 4
    assert min(drawn.values()) > 0
    # Third seeds: (0.86, 0.68), (0.80, 0.76), (0.82, 0.72), of which none beats another; all others are beaten.
    assert browser.texts("#front tbody th") == [
        "sharing=mmoe,weighting=equal,seed=3",
        "sharing=hard,weighting=equal,seed=3",
        "sharing=hard,weighting=pcgrad,seed=3",
    ]


def test_a_lower_loss_is_the_better_one_on_the_front(browser):
    browser.go("#view=trade-offs&first=validation/sentiment/loss&second=validation/entities/loss&q=sharing%3D")
    browser.drawn()
    assert browser.texts("#front tbody td:nth-child(2)") == ["1.1400", "1.1800", "1.2000"]  # 2 - accuracy


def test_parallel_coordinates_have_a_line_a_run_and_a_mark_keeps_some(browser):
    browser.open("#view=hyperparameters")
    browser.run("return new Promise((next) => setTimeout(next, 100))")
    assert browser.run("return document.querySelectorAll('.coordinates .line').length") == 13
    titles = browser.run(
        "return [...document.querySelectorAll('.axis > .title:not(.above)')].map((e) => e.firstChild.data)"
    )
    assert titles == ["sharing", "weighting", "note", "accuracy", "span_f1", "accuracy", "score"]
    assert browser.run(
        """const area = document.querySelector('.coordinates .catch');
        const box = area.getBoundingClientRect();
        area.setPointerCapture = () => {};
        const at = (kind, part) => area.dispatchEvent(
          new PointerEvent(kind, { clientY: box.top + part * box.height, bubbles: true }));
        at('pointerdown', 0.02);
        at('pointermove', 0.3);
        at('pointerup', 0.3);
        return [document.querySelectorAll('.coordinates .off').length, document.querySelector('.about').textContent];"""
    ) == [6, "7 of 13 runs within what is marked"]  # the six of hard sharing are out


def test_an_address_names_a_run_and_its_difference_to_another(browser):
    name, base = "sharing=mmoe,weighting=equal,seed=3", "sharing=hard,weighting=equal,seed=3"
    browser.go(f"#run={quote(name)}&base={quote(base)}")
    assert browser.texts("h2")[0] == name
    settings = browser.rows("#run-settings")
    assert ["sharing", "mmoe", "hard"] in settings
    assert ["sharing.num_experts", "4", "not set"] in settings
    assert not any(row[0] == "encoder.hidden_size" for row in settings)
    scores = browser.texts("#run-scores tbody tr")
    assert "sentimentaccuracy0.80000.8200−0.0200 worse0.70000.7200−0.0200 worse" in scores
    assert "sentimentloss (lower is better)1.20001.1800+0.0200 worse1.30001.2800+0.0200 worse" in scores


def test_what_a_hostile_run_says_is_text(browser):
    browser.go(f"#run={quote(EVIL_NAME)}&all=1")
    assert browser.texts("h2")[0] == EVIL_NAME
    assert ["note", EVIL] in [row[:2] for row in browser.rows("#run-settings")]
    assert EVIL in browser.texts(".facts")[1]
    for view in ("table", "curves", "scores", "trade-offs", "hyperparameters"):
        browser.go(f"#view={view}&q=img")
        assert len(browser.texts(".legend button")) == (view in ("curves", "trade-offs", "hyperparameters"))
        browser.drawn()
        assert browser.run("return document.images.length + document.querySelectorAll('#views b').length") == 0


def test_the_navigation_changes_the_view_and_going_back_undoes_it(browser):
    browser.go()
    for view in ("curves", "scores", "trade-offs", "hyperparameters", "runs", "table"):
        browser.click(f"#to-{view}")
        browser.driver.execute_async_script("setTimeout(arguments[0], 30)")
        assert browser.run("return document.querySelector('#nav [aria-current]').id") == f"to-{view}"
        assert browser.run("return document.getElementById('views').dataset.view") == view
    browser.driver.back()
    browser.driver.execute_async_script("setTimeout(arguments[0], 100)")
    assert browser.run("return document.getElementById('views').dataset.view") == "runs"


@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_is_wider_than_the_window(browser, width):
    browser.open(width=width)
    for view in ("table", "curves", "scores", "trade-offs", "hyperparameters", "runs"):
        browser.go(f"#view={view}")
        if view in ("scores", "trade-offs"):
            browser.drawn()
        assert browser.run("return document.documentElement.scrollWidth") <= width, view


def test_light_and_dark_follow_the_system_until_the_button_is_pressed(browser):
    ground = "return getComputedStyle(document.body).backgroundColor"
    browser.open(scheme="light")
    light = browser.run(ground)
    browser.open(scheme="dark")
    dark = browser.run(ground)
    assert light == "rgb(255, 255, 255)" != dark
    browser.click("#theme")
    assert browser.run(ground) == light
    browser.click("#theme")
    assert browser.run(ground) == dark
    browser.run("localStorage.clear()")
    browser.open()


def test_controls_have_names_and_the_keyboard_reaches_them(browser):
    browser.go()
    for view in ("table", "curves", "scores", "trade-offs", "hyperparameters", "runs"):
        browser.go(f"#view={view}")
        nameless = browser.run(
            """return [...document.querySelectorAll('button, input, select, summary, a[href]')].filter((e) =>
              !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.[0]?.textContent.trim())
              || e.tabIndex < 0).map((e) => e.outerHTML)"""
        )
        assert nameless == [], view
