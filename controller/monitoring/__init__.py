"""Datacenter monitoring: which agents answer, which DIPs are fit, who sends how much to whom, what is broken.

- `agents` asks every agent whether it is there.
- `evidence` says what follows: which switch is lost, and when monitoring had better suspect itself.
- `ports` says which servers are cut off, as the switches before them tell.
- `traffic` turns meter readings into a traffic matrix.
- `network` gathers links and tables as devices tell of them.
- `service` runs all and tells the updater; `api` is the REST face.
"""
