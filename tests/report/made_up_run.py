"""A run folder with made-up figures, and a reader of the page that is made of it."""

from html.parser import HTMLParser

from mtl_cli.tracking import MetricsFile, ParameterCounts, Results, RunFolder, TrainingCost

TASKS = ("sst2", "snli")
CONFIG = {
    "encoder": {"_target_": "mtl_cli.encoders.BundledMiniLM", "pooling": "mean", "dropout": None},
    "tasks": {
        "sst2": {
            "_target_": "mtl_cli.tasks.SingleTextClassification",
            "main_metric": "accuracy",
            "source": {"_target_": "mtl_cli.data.HubSource", "path": "glue"},
        },
        "snli": {"_target_": "mtl_cli.tasks.TextPairClassification"},
    },
    "sharing": {"_target_": "mtl_cli.sharing.CrossStitch", "num_shared_layers": 2},
    "weighting": {"_target_": "mtl_cli.weighting.PCGrad"},
    "seed": 7,
}
STITCH = {
    "title": "how much each task reads of each column",
    "rows": ["sst2", "snli"],
    "columns": ["sst2", "snli"],
    "values": [[0.9, -0.1], [None, 1.0]],
    "scale": "signed",
}


def records(steps=range(10, 100, 10), learnt=True):
    """A line each step: losses, weights, norms and cosines, and at every third one an evaluation."""
    for place, step in enumerate(steps):
        record = {"step": step, "train/conflict_rate": 1.0, "train/penalty/sparsity": 0.5}
        for number, task in enumerate(TASKS, start=1):
            record[f"train/loss/{task}"] = number / step
            record[f"train/weight/{task}"] = 1.0
            record[f"train/grad_norm/{task}"] = float(number)
        record["train/cosine/sst2/snli"] = -step / 100
        yield record
        if place % 3 == 2:
            evaluation = {"step": step, "validation/score": step / 100}
            evaluation |= {"validation/sst2/accuracy": 0.5 + step / 1000, "validation/snli/accuracy": None}
            if learnt:
                for row in TASKS:
                    for column in TASKS:
                        evaluation[f"sharing/stitch/{row}/{column}"] = step / 100 if row == column else 0.25
            yield evaluation


def write(path, results=None, config=CONFIG, lines=None):
    """Write the folder; return it."""
    folder = RunFolder.create(path)
    folder.write_config(config)
    folder.write_overrides(["sharing=cross_stitch", "seed=7"])
    folder.write_environment({"created": "2026-01-31T12:00:00+00:00"})
    with MetricsFile(folder.metrics_file) as file:
        for record in records() if lines is None else lines:
            file.append(record)
    folder.write_results(finished() if results is None else results)
    return folder


def finished(sharing=None):
    return Results(
        status="finished",
        tasks={"sst2": {"validation": {"accuracy": 0.8125, "loss": 0.4}, "test": {"accuracy": 0.75}}},
        score=0.8125,
        training=TrainingCost(steps=90, seconds=12.0, tokens=34567, tokens_per_second=3000.0, peak_memory_bytes=1),
        parameters=ParameterCounts(total=22_700_000, shared=22_000_000, task_specific=700_000),
        sharing={"stitch": STITCH} if sharing is None else sharing,
    )


class Page(HTMLParser):
    """The tables, headings and attributes of a page; fails where tags are not closed in order."""

    VOID = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.tables, self.headings, self.attributes, self.labels = [], [], [], []
        self.text, self._open = "", []
        self.tags = set()
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append({"caption": "", "rows": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append("")
        elif tag in ("h1", "h2", "h3", "figcaption"):
            self.headings.append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.text += data
        if "title" in self._open and "svg" in self._open:
            return  # the hint of a curve
        if "caption" in self._open:
            self.tables[-1]["caption"] += data
        elif self._open and self._open[-1] in ("td", "th"):
            self.tables[-1]["rows"][-1][-1] += data
        elif self._open and self._open[-1] in ("h1", "h2", "h3", "figcaption"):
            self.headings[-1] += data

    def table(self, caption):
        """The rows of the one table whose caption holds these words."""
        (found,) = (table["rows"] for table in self.tables if caption in table["caption"])
        return found

    def rows(self, first):
        """The rest of the rows of any table that begin with this cell."""
        return [row[1:] for table in self.tables for row in table["rows"] if row and row[0] == first]
