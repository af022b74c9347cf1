"""Examines a meter by GET requests alone, without disturbing the program that drives it."""
