"""Datacenter monitoring: which agents answer, which DIPs are fit, and who sends how much to whom.

- `agents` asks every agent whether it is there, and says when that changes.
- `traffic` turns meter readings into a traffic matrix.
- `service` runs both and tells the updater; `api` is the REST face.
"""
