"""`duet bench dataplane`: how fast the HMux forwards and how fast it is programmed."""
