"""What a run folder holds, as a page for people."""

from mtl_cli.report.inspect_page import inspect_page

__all__ = ["inspect_page"]
