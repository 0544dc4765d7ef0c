"""The machine that a stage runs on: device, processes, versions, load."""
