"""Runs in, reports out: the page, Markdown for a pull request, CSV and JSON. `write_report` alone writes."""

from gpubench.report.write import FORMATS, write_report

__all__ = ["FORMATS", "write_report"]
