"""How the gateway speaks to its workers: the HTTP/1.1 client and what is built on it."""
