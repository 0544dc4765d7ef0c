"""The machine a stage runs on: device, processes, versions, load."""
