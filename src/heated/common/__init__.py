"""Errors, files, archives and the command line, used by every other folder."""
