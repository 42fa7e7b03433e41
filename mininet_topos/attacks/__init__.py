"""Attacks on a running testbed: each tries what nobody should be able to do, and looks whether it worked.

What an attacker has is said by each attack: a client's or a server's root, a stolen certificate, a BGP
session. What counts is the effect, not the refusal: a packet that must not arrive is looked for where it
would, a VIP that must not change is read back.
"""
