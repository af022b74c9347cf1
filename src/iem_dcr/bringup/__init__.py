"""Looks at a meter without driving it: nothing here posts, and whoever drives the meter is not disturbed."""
