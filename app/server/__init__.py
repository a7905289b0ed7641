"""Sockets, connections of clients, and the life of a process that serves them."""
