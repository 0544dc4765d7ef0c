"""The report: results read from the runs' files, a table, curves, and one page."""
