"""What every other folder builds on: errors, files, archives, the command line."""
