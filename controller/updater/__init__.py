"""The assignment updater: turns what is wanted into rules on switches and SMuxes.

- `layout` spells a VIP out into slot tables and TIPs, and changes them with the least movement.
- `plan` compares what is wanted with what the muxes hold, and orders the difference into waves.
- `executor` carries a plan out over REST.
- `service` keeps the two in step: VIP changes, migrations, failures, resync. `api` is its REST face.
"""
