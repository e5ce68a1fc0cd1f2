"""`RunResult` to one self-contained HTML file and a Markdown summary."""

from domainlm.report.html import to_html, write_report
from domainlm.report.markdown import to_markdown

__all__ = ["to_html", "to_markdown", "write_report"]
