"""The paper's large-scale evaluation (section 8), run on the engine that runs the testbed."""
