"""What the web page asks of a testbed: the same as `duet testbed`, by the same names, under `/testbed/v1`."""
