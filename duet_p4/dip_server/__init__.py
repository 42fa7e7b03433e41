"""A real server for a DIP: HTTP that says which DIP answered, and UDP echo."""
