"""The handshake between the legs: who is asked what, in which order, and what a failure means."""
