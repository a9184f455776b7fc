"""Policies in three tiers: an oracle over plain manifests, and mixtures of all kinds at random, offline and by packets.

The golden cases are with all others, in tests/cases/tiers.
"""
