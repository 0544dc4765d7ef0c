"""Run the pipeline: several runs at a time, a short try, and a data set of your own."""
