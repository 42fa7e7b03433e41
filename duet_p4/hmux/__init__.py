"""The HMux as the control plane sees it: rows of its tables, plans to change them, P4Runtime entries."""
