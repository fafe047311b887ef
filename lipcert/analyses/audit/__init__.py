"""`lipcert audit`: every proof of a run attacked just inside its own radius, and outside to measure how strong that is.

A radius that is too large by some factor can only be noticed if an attack finds an adversarial image within it. The
audit therefore says two things: that it found none, and the smallest factor at which it would have found one.
"""
