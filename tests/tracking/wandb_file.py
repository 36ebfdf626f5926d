"""Reads the records of a W&B offline file (run-<id>.wandb): the log format of LevelDB around protocol buffers."""

import json
import struct
from pathlib import Path


def read_records(path: Path):
    """All records. Blocks of 32 KiB hold chunks: checksum (4 bytes), length (2), type (1: whole, 2-4: parts), data."""
    from wandb.proto import wandb_internal_pb2

    content, position, buffer = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        position += 7
        buffer = (
            content[position : position + length] if kind in (1, 2) else buffer + content[position : position + length]
        )
        position += length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(buffer)
            yield record


def history(path: Path) -> list[dict]:
    """The logged rows, nested keys joined by dots."""
    return [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in read_records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def summary(path: Path) -> dict:
    """The summary as it stands after the last record."""
    values: dict = {}
    for record in read_records(path):
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                values[".".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return values


def config(path: Path) -> dict:
    """The configuration given at the start."""
    for record in read_records(path):
        if record.WhichOneof("record_type") == "run":
            return {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return {}


def group(path: Path) -> str:
    """The name of the group that the run was put into at its start; "" for none."""
    return next(record.run.run_group for record in read_records(path) if record.WhichOneof("record_type") == "run")


def step_axes(path: Path) -> dict[str, str]:
    """Metric, or pattern of metrics -> the metric that is its axis."""
    return {
        record.metric.name or record.metric.glob_name: record.metric.step_metric
        for record in read_records(path)
        if record.WhichOneof("record_type") == "metric"
    }
