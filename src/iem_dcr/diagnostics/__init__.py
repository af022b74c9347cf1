"""Examines a meter with GET requests only, without disturbing the program that drives it."""
