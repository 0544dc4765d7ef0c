"""The report: tables, tested claims, figures and the HTML page, made from the runs' files."""
