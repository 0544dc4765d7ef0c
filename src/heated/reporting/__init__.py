"""The report: tables, tested claims, figures and the HTML page, made from the runs' files."""

import os

# Before matplotlib is imported, which fails if this names a notebook's backend from elsewhere.
os.environ["MPLBACKEND"] = "agg"
