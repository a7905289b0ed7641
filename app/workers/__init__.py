"""The workers Tandem knows: what they are, how they fare, and how busy they are."""
