"""Pure values and rules of the post-purchase worker: no I/O, no clock, no framework."""
