"""One gateway in several processes: pipes that carry requests, and one brain that decides."""
