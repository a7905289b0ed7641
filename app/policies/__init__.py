"""Which of several workers gets a request; pure, one policy a file."""
