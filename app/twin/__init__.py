"""A fleet in virtual time: the gateway's own scheduler before simulated engines, no sockets."""
